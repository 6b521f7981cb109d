//! The house's own rules that need more than one line of text to judge.

mod circles;
mod dependencies;
mod documents;
