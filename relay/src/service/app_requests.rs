//! The requests of an app, carried out.
//!
//! Invariant: a future may be dropped at any await. Work under way then completes, or leaves nothing behind.

use std::net::IpAddr;

use tracing::Instrument as _;

use super::apps::{AppService, Enable, EnableError, Enabled, ExamineError};
use super::enable::hang_up::{HangUp, UndeliveredInstance};
use super::{Inner, Service};
use crate::clock;
use crate::doctor::{Patient, Report};
use crate::limits::guesses::Attempt;
use crate::vault::Owner;

impl AppService for Service {
    async fn enable(&self, app: &str, source: IpAddr, request: Enable) -> Result<Enabled, EnableError> {
        let (it, app) = (self.0.clone(), app.into());
        let (hang_up, _request) = HangUp::new();
        // In a task of its own: an app that hangs up leaves no half of an enabling, nor one that nobody knows the secret of.
        let enabling = async move {
            let (enabled, replaced) = it.clone().enable(app, source, request, hang_up).await?;
            Ok(UndeliveredInstance::new(it, enabled, replaced))
        };
        let enabled = tokio::spawn(enabling.in_current_span()).await.unwrap_or(Err(EnableError::Draining))?;
        enabled.take().ok_or(EnableError::HungUp)
    }

    async fn node_to_enable_at(&self, app: &str, request: &Enable) -> Option<Owner> {
        match self.0.node_in_call(app, request).await {
            Some(node) => Some(node),
            None => self.0.node_registering(app, request).await,
        }
    }

    async fn is_to_be_enabled_here(&self, app: &str, request: &Enable) -> bool {
        self.0.is_in_call(app, request).await || self.0.is_registered_here(app, request).await
    }

    async fn examine(&self, app: &str, source: IpAddr, patient: Patient) -> Result<Report, ExamineError> {
        let (it, app) = (self.0.clone(), Box::<str>::from(app));
        // Likewise: a trial registration is unregistered.
        tokio::spawn(async move { it.examine(app, source, patient).await }).await.unwrap_or(Err(ExamineError::Busy))
    }
}

impl Inner {
    async fn examine(&self, app: Box<str>, source: IpAddr, patient: Patient) -> Result<Report, ExamineError> {
        let _of_app = self.examinations_of_app.try_take(app).ok_or(ExamineError::Busy)?;
        let _of_source = self.examinations_of_source.try_take(source).ok_or(ExamineError::Busy)?;
        let _turn = self.examinations.try_acquire().map_err(|_| ExamineError::Busy)?;
        let doctor = self.dependencies.doctor.asked_by(source);
        let server = match &patient.credentials {
            Some(_) => doctor.server_of(&patient).await,
            None => None,
        };
        let permit = match (&patient.credentials, server) {
            (Some((username, _)), Some((server, addresses))) => {
                let (aor, usernames) = (&*patient.aor, std::slice::from_ref(username));
                let (server, addresses) = (&*server, &*addresses);
                let attempt = Attempt { aor, usernames, server, addresses, source, renews: false };
                let permit = self.dependencies.quotas.try_password(&attempt);
                Some(permit.map_err(|wait| ExamineError::TooManyFailures { retry_after_s: wait.seconds() })?)
            }
            _ => None,
        };
        let report = doctor.examine(&patient).await;
        match (permit, report.proof) {
            (Some(permit), Some(true)) => permit.accepted(clock::now()),
            (Some(permit), Some(false)) => permit.refused(clock::now()),
            _ => {}
        }
        Ok(report)
    }
}
