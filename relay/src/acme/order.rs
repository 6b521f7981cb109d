//! One order, from its names to the chain (RFC 8555 §7.4).
//!
//! Invariant: each order has a key of its own, which leaves this machine as a public key alone.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, KeyAuthorization, NewOrder, Order, OrderStatus,
    RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use zeroize::Zeroizing;

use super::AcmeError;

/// How long the CA may take to look, and to issue.
const WITHIN: Duration = Duration::from_secs(90);

/// Who shows the CA that a name is this relay's.
pub(super) trait Prover {
    /// How, as the CA and as a person calls it.
    fn kind(&self) -> (ChallengeType, &'static str);

    /// Shows it from now on.
    fn prove(&self, name: &str, token: &str, authorization: &KeyAuthorization) -> Result<(), AcmeError>;
}

/// Orders a certificate for `names`: its key and its chain, in PEM.
pub(super) async fn order(
    account: &Account,
    names: &[String],
    prover: &(impl Prover + Sync),
) -> Result<(Zeroizing<String>, String), AcmeError> {
    let identifiers: Vec<Identifier> = names.iter().cloned().map(Identifier::Dns).collect();
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
    prove_all(&mut order, prover).await?;
    let policy = RetryPolicy::new().timeout(WITHIN);
    match order.poll_ready(&policy).await {
        Ok(OrderStatus::Invalid) | Err(Error::Api(_)) => return Err(why_not(&mut order).await?),
        ready => ready?,
    };
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    order.finalize_csr(params.serialize_request(&key)?.der()).await?;
    let chain = order.poll_certificate(&policy).await?;
    Ok((Zeroizing::new(key.serialize_pem()), chain))
}

async fn prove_all(order: &mut Order, prover: &(impl Prover + Sync)) -> Result<(), AcmeError> {
    let (kind, called) = prover.kind();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        // What was proved for an earlier order stands for a while.
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let name = authorization.identifier().to_string();
        let Some(mut challenge) = authorization.challenge(kind.clone()) else {
            return Err(AcmeError::NoChallenge(called, name));
        };
        let token = challenge.token.clone();
        prover.prove(&name, &token, &challenge.key_authorization())?;
        challenge.set_ready().await?;
    }
    Ok(())
}

/// What the CA has against an order.
async fn why_not(order: &mut Order) -> Result<AcmeError, AcmeError> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let name = authorization.identifier().to_string();
        let problem = authorization.challenges.iter().find_map(|challenge| challenge.error.as_ref());
        return Ok(AcmeError::NotProved(
            name,
            problem.map_or_else(|| "it says no more".to_owned(), ToString::to_string),
        ));
    }
    Ok(AcmeError::NotProved("a name".to_owned(), "it says no more".to_owned()))
}
