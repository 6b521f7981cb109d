//! The house's own rules: floors, circles, names, dependencies, documents.

mod alerts;
mod api_reference;
mod circles;
mod dashboard;
mod dependencies;
mod documents;
mod metrics_reference;
mod package;
mod page;
mod tidy;
