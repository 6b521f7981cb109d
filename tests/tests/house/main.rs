//! The house's own rules, checked on its sources.

mod circles;
mod dependencies;
mod documents;
mod tidy;
