//! Certificates that are kept: imported ones, and self-signed ones made here.
//!
//! The router makes its own certificates for `*.localhost`; these here are for clients that manage them.

use boxrig_convox::{Done, Reply, models, ops, parse_duration};
use boxrig_wire::{ApiError, Kind, Request};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

use super::time::stamp;
use super::{Cx, params};

/// The most names of one certificate.
const NAMES: usize = 10;
/// How long one that is made here is good for, unless the caller says otherwise.
const LIFE_S: u64 = 365 * 24 * 3600;

/// A certificate on record; its key is in the same file as all state, which only the owner can read.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    id: String,
    domains: Vec<String>,
    expires_ms: u64,
    generated: bool,
    life_s: u64,
    chain: String,
    key: String,
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record")
            .field("id", &self.id)
            .field("domains", &self.domains)
            .finish_non_exhaustive()
    }
}

fn view(cx: &Cx, r: &Record) -> models::Certificate {
    let mut m = models::Certificate::default();
    m.id = r.id.clone();
    m.domain = r.domains.first().cloned().unwrap_or_default();
    m.domains = r.domains.clone();
    m.expiration = stamp(r.expires_ms);
    m.status = if r.expires_ms > cx.core.now_ms() {
        "issued"
    } else {
        "expired"
    }
    .into();
    m
}

async fn keep(cx: &Cx, record: Record) -> Result<Reply<models::Certificate>, ApiError> {
    let kept = record.clone();
    cx.core
        .store
        .write(|tx| {
            tx.put(&cx.certificates, &kept.id.clone(), kept)?;
            Ok::<_, ApiError>(())
        })
        .await?;
    Ok(Reply(view(cx, &record)))
}

pub(super) async fn list(
    cx: Cx,
    rq: Request<ops::certificates::CertificateList>,
) -> Result<Reply<Vec<models::Certificate>>, ApiError> {
    let all = cx.certificates.list();
    let some = all
        .iter()
        .filter(|r| rq.query.generated != Some(true) || r.generated);
    Ok(Reply(some.map(|r| view(&cx, r)).collect()))
}

pub(super) async fn create(
    cx: Cx,
    rq: Request<ops::certificates::CertificateCreate>,
) -> Result<Reply<models::Certificate>, ApiError> {
    let form = rq.body.0;
    let wrong = |why: &str| ApiError::invalid(format!("invalid certificate: {why}"));
    let der = CertificateDer::from_pem_slice(form.r#pub.as_bytes())
        .map_err(|_| wrong("pub is no certificate in PEM"))?;
    let key = PrivateKeyDer::from_pem_slice(form.key.expose().as_bytes())
        .map_err(|_| wrong("key is no private key in PEM"))?;
    let facts = facts(&der).ok_or_else(|| wrong("pub cannot be read"))?;
    let signs = rustls::crypto::ring::sign::any_supported_type(&key)
        .map_err(|_| wrong("its kind of key is not supported"))?;
    let public = signs
        .public_key()
        .ok_or_else(|| wrong("its key cannot be compared"))?;
    if public.as_ref() != facts.public_key {
        return Err(wrong("key is not the certificate's"));
    }
    let record = Record {
        id: format!("cert-{}", cx.core.ids.hex(10)),
        domains: facts.domains,
        expires_ms: facts.expires_ms,
        chain: format!("{}\n{}", form.r#pub, form.chain.unwrap_or_default()),
        key: form.key.expose().to_owned(),
        ..Record::default()
    };
    keep(&cx, record).await
}

pub(super) async fn generate(
    cx: Cx,
    rq: Request<ops::certificates::CertificateGenerate>,
) -> Result<Reply<models::Certificate>, ApiError> {
    let form = rq.body.0;
    let domains = form.domains.0;
    if domains.is_empty() {
        return Err(ApiError::invalid("must specify a domain"));
    }
    if domains.len() > NAMES {
        return Err(ApiError::invalid(
            "can not specify more than 10 domain name",
        ));
    }
    match form.issuer.as_deref() {
        None | Some("" | "self-signed") => {}
        Some("letsencrypt") => {
            return Err(ApiError::new(
                Kind::Unsupported,
                "CertificateGenerate with letsencrypt is not implemented by this server: a local name can have no public certificate",
            ));
        }
        Some(_) => return Err(ApiError::invalid("invalid issuer")),
    }
    let life_s = match form.duration.as_deref().filter(|d| !d.is_empty()) {
        None => LIFE_S,
        Some(text) => parse_duration(text)
            .map(|d| d.as_secs())
            .filter(|s| (1..=10 * LIFE_S).contains(s))
            .ok_or_else(|| ApiError::invalid(format!("invalid duration: {text}")))?,
    };
    let record = make(
        &cx,
        format!("cert-{}", cx.core.ids.hex(10)),
        domains,
        life_s,
    )?;
    keep(&cx, record).await
}

fn make(cx: &Cx, id: String, domains: Vec<String>, life_s: u64) -> Result<Record, ApiError> {
    let wrong = |e: rcgen::Error| ApiError::invalid(format!("invalid domain: {e}"));
    let mut parameters = rcgen::CertificateParams::new(domains.clone()).map_err(wrong)?;
    let begin = cx.core.now_ms() / 1000;
    let time = |s: u64| {
        let s = i64::try_from(s).unwrap_or(i64::MAX);
        let t = jiff::Timestamp::from_second(s)
            .unwrap_or_default()
            .to_zoned(jiff::tz::TimeZone::UTC);
        let part = |n: i8| u8::try_from(n).unwrap_or(1);
        rcgen::date_time_ymd(t.year().into(), part(t.month()), part(t.day()))
    };
    // Whole days: it begins today and ends on the day after its life.
    parameters.not_before = time(begin);
    parameters.not_after = time(begin + life_s + 24 * 3600);
    let key = rcgen::KeyPair::generate().map_err(|e| params::failed(e.to_string()))?;
    let certificate = parameters.self_signed(&key).map_err(wrong)?;
    Ok(Record {
        id,
        domains,
        expires_ms: (begin + life_s) * 1000,
        generated: true,
        life_s,
        chain: certificate.pem(),
        key: key.serialize_pem(),
    })
}

fn known(cx: &Cx, id: &str) -> Result<std::sync::Arc<Record>, ApiError> {
    let found = cx.certificates.get(id);
    found.ok_or_else(|| ApiError::not_found(format!("certificate not found: {id}")))
}

pub(super) async fn renew(
    cx: Cx,
    rq: Request<ops::certificates::CertificateRenew>,
) -> Result<Done, ApiError> {
    let old = known(&cx, &rq.path.0)?;
    if !old.generated {
        return Err(ApiError::invalid(format!(
            "certificate {} was imported: only its maker can renew it",
            old.id
        )));
    }
    let new = make(&cx, old.id.clone(), old.domains.clone(), old.life_s)?;
    keep(&cx, new).await?;
    Ok(Done)
}

pub(super) async fn delete(
    cx: Cx,
    rq: Request<ops::certificates::CertificateDelete>,
) -> Result<Done, ApiError> {
    let (id,) = rq.path;
    known(&cx, &id)?;
    cx.core
        .store
        .write(|tx| Ok::<_, ApiError>(tx.delete(&cx.certificates, &id)))
        .await?;
    Ok(Done)
}

/// What is read of a certificate.
struct Facts<'a> {
    expires_ms: u64,
    public_key: &'a [u8],
    domains: Vec<String>,
}

/// A DER element.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    /// Itself, with its head.
    whole: &'a [u8],
    /// What follows it.
    after: &'a [u8],
}

fn element(der: &[u8]) -> Option<Element<'_>> {
    let (tag, first) = (*der.first()?, *der.get(1)?);
    let (len, at) = match first {
        0..=0x7f => (usize::from(first), 2),
        0x81..=0x84 => {
            let n = usize::from(first & 0x7f);
            let bytes = der.get(2..2 + n)?;
            let len = bytes
                .iter()
                .fold(0usize, |len, b| len << 8 | usize::from(*b));
            (len, 2 + n)
        }
        _ => return None,
    };
    let end = at.checked_add(len)?;
    Some(Element {
        tag,
        content: der.get(at..end)?,
        whole: der.get(..end)?,
        after: der.get(end..)?,
    })
}

/// Reads a certificate (RFC 5280, 4.1) as far as it is shown here.
fn facts(der: &[u8]) -> Option<Facts<'_>> {
    /// `subjectAltName`, 2.5.29.17.
    const NAMES_OID: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x11];
    let certificate = element(der)?.content;
    let mut rest = element(certificate)?.content;
    // The version, which the first one leaves out; then serial number, algorithm, issuer.
    if rest.first() == Some(&0xa0) {
        rest = element(rest)?.after;
    }
    for _ in 0..3 {
        rest = element(rest)?.after;
    }
    let validity = element(rest)?;
    let not_after = element(element(validity.content)?.after)?;
    let text = std::str::from_utf8(not_after.content).ok()?;
    let text = text.trim_end_matches('Z');
    // UTCTime has two digits for the year, of which 50 is 1950 (4.1.2.5.1).
    let text = match not_after.tag {
        0x17 if text < "50" => format!("20{text}"),
        0x17 => format!("19{text}"),
        _ => text.to_owned(),
    };
    let at = jiff::civil::DateTime::strptime("%Y%m%d%H%M%S", text).ok()?;
    let at = at.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    let subject = element(validity.after)?;
    let public_key = element(subject.after)?;
    let mut domains = Vec::new();
    let extensions = public_key.after;
    let found = extensions
        .windows(NAMES_OID.len())
        .position(|w| w == NAMES_OID);
    if let Some(found) = found {
        let mut value = element(extensions.get(found + NAMES_OID.len()..)?)?;
        // It may be marked as critical.
        if value.tag == 0x01 {
            value = element(value.after)?;
        }
        let mut names = element(value.content)?.content;
        while let Some(name) = element(names) {
            if name.tag == 0x82 {
                domains.push(String::from_utf8_lossy(name.content).into_owned());
            }
            names = name.after;
        }
    }
    Some(Facts {
        expires_ms: u64::try_from(at.as_millisecond()).ok()?,
        public_key: public_key.whole,
        domains,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_read() {
        let names = vec!["a.example".to_owned(), "b.example".to_owned()];
        let mut parameters = rcgen::CertificateParams::new(names).unwrap();
        parameters.not_after = rcgen::date_time_ymd(2031, 2, 3);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        let facts = facts(certificate.der()).unwrap();
        assert_eq!(facts.domains, ["a.example", "b.example"]);
        assert_eq!(stamp(facts.expires_ms).0, "2031-02-03T00:00:00Z");
        let private = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let signs = rustls::crypto::ring::sign::any_supported_type(&private).unwrap();
        assert_eq!(signs.public_key().unwrap().as_ref(), facts.public_key);
        for cut in 0..certificate.der().len() {
            let _ = super::facts(&certificate.der()[..cut]);
        }
    }
}
