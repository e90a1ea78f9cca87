//! Certificates: self-signed ones are really made (ECDSA), given ones are read.

use boxrig_wire::ApiError;
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::kit::{self, Done, default};
use crate::vergeos::row::Row;

/// How long a self-signed certificate is valid.
const VALID_S: i64 = 365 * 86_400;

/// The names of a certificate: its domain, and its list (commas, spaces or lines between).
fn names(row: &Row) -> Vec<String> {
    let list = match row.get("domainlist") {
        Value::Array(all) => all
            .iter()
            .filter_map(|v| v.as_str().map(str::to_owned))
            .collect::<Vec<_>>()
            .join(","),
        other => other.as_str().unwrap_or("").to_owned(),
    };
    let mut names = vec![row.text("domain").to_owned()];
    for name in list
        .split([',', '\n', ' '])
        .map(str::trim)
        .filter(|n| !n.is_empty())
    {
        if !names.iter().any(|n| n == name) {
            names.push(name.to_owned());
        }
    }
    names
}

fn failed(e: &rcgen::Error) -> ApiError {
    kit::invalid(format!("the certificate cannot be made: {e}"))
}

/// Completes a certificate's row: makes a self-signed one, reads a given one.
pub(super) fn fill(row: &mut Row, now: i64) -> Done {
    let domain = row.text("domainname").to_owned();
    if !domain.is_empty() {
        row.set("domain", domain);
    }
    default(row, "type", "self_signed");
    match row.text("type") {
        "manual" => {
            let (_, end) = read(row.text("public"))?;
            row.set("expires", end);
            row.set("valid", end > now);
        }
        "letsencrypt" => {
            // Nobody out there can be asked from here: the row says so by not being valid.
            default(row, "key_type", "ecdsa");
            row.set("valid", false);
        }
        _ => {
            default(row, "key_type", "ecdsa");
            let (begin, end) = (day(now), day(now + VALID_S));
            row.set("expires", end.0);
            if row.text("key_type") == "rsa" {
                // No RSA key can be made here: the row is kept, without a key and not valid.
                row.set("rsa_key_size", row.int("rsa_key_size").max(2048));
                row.set("valid", false);
                return Ok(());
            }
            let key = KeyPair::generate().map_err(|e| failed(&e))?;
            let mut params = CertificateParams::new(names(row)).map_err(|e| failed(&e))?;
            params.not_before = rcgen::date_time_ymd(begin.1, begin.2, begin.3);
            params.not_after = rcgen::date_time_ymd(end.1, end.2, end.3);
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, row.text("domain"));
            let made = params.self_signed(&key).map_err(|e| failed(&e))?;
            row.set("public", made.pem());
            row.set("private", key.serialize_pem());
            row.set("valid", true);
        }
    }
    Ok(())
}

/// Midnight of a moment's day (UTC), and the day as year, month and day.
fn day(epoch: i64) -> (i64, i32, u8, u8) {
    let at = jiff::Timestamp::from_second(epoch).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let date = at.to_zoned(jiff::tz::TimeZone::UTC).date();
    let part = |n: i8| u8::try_from(n).unwrap_or(1);
    (
        epoch - epoch.rem_euclid(86_400),
        i32::from(date.year()),
        part(date.month()),
        part(date.day()),
    )
}

/// The DER of a PEM certificate and the moment it ends.
fn read(pem: &str) -> Result<(Vec<u8>, i64), ApiError> {
    let wrong = || kit::invalid("the certificate cannot be read");
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|_| wrong())?;
    let end = pem
        .parse_x509()
        .map_err(|_| wrong())?
        .validity()
        .not_after
        .timestamp();
    Ok((pem.contents, end))
}

/// Takes over what a root certificate says of itself.
pub(super) fn read_root(row: &mut Row) -> Done {
    let (der, end) = read(row.text("cert"))?;
    let (_, cert) = X509Certificate::from_der(&der)
        .map_err(|_| kit::invalid("the certificate cannot be read"))?;
    row.set("subject", cert.subject().to_string());
    row.set("issuer", cert.issuer().to_string());
    row.set("startdate", cert.validity().not_before.timestamp());
    row.set("enddate", end);
    let digest: Vec<String> = Sha256::digest(&der)
        .iter()
        .map(|b| format!("{b:02X}"))
        .collect();
    row.set("fingerprint", digest.join(":"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_self_signed_certificate_is_one() {
        let mut row =
            kit::cells(json!({"domainname": "lab.example", "domainlist": "www.lab.example"}));
        fill(&mut row, 1_767_225_600).unwrap();
        assert_eq!(row.text("domain"), "lab.example");
        let (_, end) = read(row.text("public")).unwrap();
        assert_eq!(end, row.int("expires"));
        let mut root = kit::cells(json!({"cert": row.text("public")}));
        read_root(&mut root).unwrap();
        assert!(root.text("subject").contains("lab.example"), "{root:?}");
        assert_eq!(root.text("fingerprint").len(), 32 * 3 - 1);
        assert!(read_root(&mut kit::cells(json!({"cert": "nothing"}))).is_err());
    }
}
