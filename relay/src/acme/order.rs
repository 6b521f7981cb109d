//! One order, from its names to the chain (RFC 8555 §7.4).
//!
//! An order goes on from where it stands at the CA, as often as it takes: its place and its key are in the state folder until its chain
//! is in use.
//!
//! Invariant: each order has a key of its own, which leaves this machine as a public key alone. A failure that says nothing of the order
//! itself (no connection, a refused nonce, a limit) orders no second certificate.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeStatus, ChallengeType, Identifier, KeyAuthorization, NewOrder, Order,
    OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use zeroize::Zeroizing;

use super::AcmeError;
use super::files::{Begun, Files};

/// How long the CA may take to look, and to issue.
const WITHIN: Duration = Duration::from_secs(90);

/// A way to show the CA that a name is this relay's.
pub(super) trait Prover {
    /// How, as the CA and as a person calls it.
    fn kind(&self) -> (ChallengeType, &'static str);

    /// Shows it from now on.
    fn prove(&self, name: &str, token: &str, authorization: &KeyAuthorization) -> Result<(), AcmeError>;
}

/// Orders a certificate for `names`, or goes on with the order that was begun for them: its key and its chain, in PEM.
pub(super) async fn order(
    account: &Account,
    names: &[String],
    prover: &(impl Prover + Sync),
    files: &Files,
) -> Result<(Zeroizing<String>, String), AcmeError> {
    let (mut order, key) = match resumed(account, names, files).await? {
        Some(resumed) => resumed,
        None => begun(account, names, files).await?,
    };
    let chain = chain(&mut order, &key, names, prover).await;
    if chain.as_ref().is_err_and(AcmeError::ends_order) {
        files.forget_order()?;
    }
    Ok((key, chain?))
}

/// The order that was begun, unless the CA does not know it any more or has given it up.
async fn resumed(
    account: &Account,
    names: &[String],
    files: &Files,
) -> Result<Option<(Order, Zeroizing<String>)>, AcmeError> {
    let Some(Begun { url, key }) = files.begun(account.id(), names) else { return Ok(None) };
    let order = match account.order(url).await.map_err(AcmeError::Ca) {
        Ok(order) => Some(order),
        Err(error) if error.ends_order() => None,
        Err(error) => return Err(error),
    };
    if let Some(mut order) = order
        && order.state().status != OrderStatus::Invalid
    {
        return Ok(Some((order, key)));
    }
    files.forget_order()?;
    Ok(None)
}

async fn begun(account: &Account, names: &[String], files: &Files) -> Result<(Order, Zeroizing<String>), AcmeError> {
    let identifiers: Vec<Identifier> = names.iter().cloned().map(Identifier::Dns).collect();
    let key = Zeroizing::new(KeyPair::generate()?.serialize_pem());
    let order = account.new_order(&NewOrder::new(&identifiers)).await.map_err(AcmeError::of_new_order)?;
    let begun = Begun { url: order.url().to_owned(), key };
    files.keep_begun(account.id(), names, &begun)?;
    Ok((order, begun.key))
}

/// Does what is left to do.
async fn chain(
    order: &mut Order,
    key: &str,
    names: &[String],
    prover: &(impl Prover + Sync),
) -> Result<String, AcmeError> {
    let policy = RetryPolicy::new().timeout(WITHIN);
    if order.state().status == OrderStatus::Pending {
        prove_all(order, prover).await?;
        match order.poll_ready(&policy).await.map_err(AcmeError::Ca) {
            Ok(OrderStatus::Invalid) => return Err(why_not(order).await?),
            Err(error) if error.ends_order() => return Err(why_not(order).await?),
            ready => ready?,
        };
    }
    if order.state().status == OrderStatus::Ready {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = DistinguishedName::new();
        order.finalize_csr(params.serialize_request(&KeyPair::from_pem(key)?)?.der()).await?;
    }
    Ok(order.poll_certificate(&policy).await?)
}

async fn prove_all(order: &mut Order, prover: &(impl Prover + Sync)) -> Result<(), AcmeError> {
    let (kind, called) = prover.kind();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        // A name proved for an earlier order stays proved for a while.
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let name = authorization.identifier().to_string();
        let Some(mut challenge) = authorization.challenge(kind.clone()) else {
            return Err(AcmeError::NoChallenge(called, name));
        };
        let token = challenge.token.clone();
        prover.prove(&name, &token, &challenge.key_authorization())?;
        // Else the CA was asked before, and looks.
        if challenge.status == ChallengeStatus::Pending {
            challenge.set_ready().await?;
        }
    }
    Ok(())
}

/// The CA's objection to an order.
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
