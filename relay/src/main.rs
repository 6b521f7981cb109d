//! sipwake
fn main() {}
