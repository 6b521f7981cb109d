//! The house's own rules: floors, circles, names, dependencies, documents.

mod alerts;
mod api_reference;
mod circles;
mod dashboard;
mod dependencies;
mod documents;
mod logs;
mod metrics;
mod metrics_reference;
mod package;
mod page;
mod recipes;
mod tidy;
