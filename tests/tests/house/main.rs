//! The house's own rules: floors, circles, names, dependencies, documents.

mod alerts;
mod circles;
mod dashboard;
mod dependencies;
mod documents;
mod package;
mod tidy;
