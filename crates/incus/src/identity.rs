//! Client certificates and the fingerprints by which servers and clients know each other.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};

use boxrig_wire::{Error, Kind, Result};
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

use crate::files::hex;

/// A client certificate with its key, both PEM. Servers know it by its fingerprint.
#[derive(Clone)]
pub struct Identity {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

fn unreadable(path: &Path, e: std::io::Error) -> Error {
    let shown = path.display().to_string();
    let shown = boxrig_wire::escape_line(&shown);
    Error::new(Kind::Invalid, format!("cannot read {shown}")).with_source(e)
}

impl Identity {
    /// From PEM texts.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] when the certificate is none. The key is looked at when it is used.
    pub fn from_pem(certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Result<Self> {
        let certificate = certificate.into();
        fingerprint_of_pem(&certificate)?;
        Ok(Self {
            certificate,
            key: key.into(),
        })
    }

    /// From two files.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] when one cannot be read or is not what it should be.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self> {
        let read = |path: &Path| std::fs::read(path).map_err(|e| unreadable(path, e));
        Self::from_pem(read(certificate)?, read(key)?)
    }

    /// Makes a new one for `name` (by habit `user@host`): P-256, signed by itself, for ten years and more.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] for a name that a certificate cannot hold, [`Kind::Failed`] without random numbers.
    pub fn generate(name: &str) -> Result<Self> {
        let failed = |e: rcgen::Error| {
            Error::new(Kind::Failed, "the client certificate cannot be made").with_source(e)
        };
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .distinguished_name
            .push(DnType::OrganizationName, "boxrig");
        params.is_ca = IsCa::NoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = date_time_ymd(2024, 1, 1);
        params.not_after = date_time_ymd(2045, 1, 1);
        let certificate = params.self_signed(&key).map_err(failed)?;
        Self::from_pem(certificate.pem(), key.serialize_pem())
    }

    /// The one in `client.crt` and `client.key` of a folder; made there when there is none, the key readable by its owner
    /// alone (folder 0700, file 0600).
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] when the files cannot be read or written.
    pub fn load_or_make(folder: &Path, name: &str) -> Result<Self> {
        let (certificate, key) = (folder.join("client.crt"), folder.join("client.key"));
        if key.exists() || certificate.exists() {
            return Self::from_files(&certificate, &key);
        }
        let made = Self::generate(name)?;
        private_folder(folder)?;
        // The key first: a certificate without its key would be found and be useless.
        write_private(&key, &made.key)?;
        write_private(&certificate, &made.certificate)?;
        Ok(made)
    }

    /// The certificate, PEM.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }
    /// The SHA-256 of the certificate's DER form in hex: what servers know it by.
    ///
    /// # Errors
    ///
    /// None after a certificate was read.
    pub fn fingerprint(&self) -> Result<String> {
        fingerprint_of_pem(&self.certificate)
    }
    /// The certificate in the form that the API takes: the base64 of its DER form.
    ///
    /// # Errors
    ///
    /// None after a certificate was read.
    pub fn certificate_base64(&self) -> Result<String> {
        use base64::Engine as _;
        Ok(base64::engine::general_purpose::STANDARD.encode(der(&self.certificate)?))
    }
}

/// Makes a folder that only its owner enters.
pub(crate) fn private_folder(folder: &Path) -> Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(folder).map_err(|e| unwritable(folder, e))
}

/// Writes a file whole or not at all, readable by its owner alone.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let folder: PathBuf = path.parent().unwrap_or(Path::new(".")).into();
    let write = || -> std::io::Result<()> {
        // Temporary files are 0600 from their first moment.
        let mut file = tempfile::NamedTempFile::new_in(&folder)?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        Ok(())
    };
    write().map_err(|e| unwritable(path, e))
}

fn unwritable(path: &Path, e: std::io::Error) -> Error {
    let shown = path.display().to_string();
    let shown = boxrig_wire::escape_line(&shown);
    Error::new(Kind::Invalid, format!("cannot write {shown}")).with_source(e)
}

fn der(pem: &[u8]) -> Result<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem)
        .map_err(|e| Error::new(Kind::Invalid, "this is not a PEM certificate").with_source(e))
}

/// The SHA-256 of a PEM certificate's DER form, in hex.
///
/// # Errors
///
/// [`Kind::Invalid`] when it is none.
pub fn fingerprint_of_pem(pem: &[u8]) -> Result<String> {
    Ok(hex(&Sha256::digest(der(pem)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        let made = Identity::load_or_make(&folder, "me@here").unwrap();
        let again = Identity::load_or_make(&folder, "me@here").unwrap();
        assert_eq!(made.fingerprint().unwrap(), again.fingerprint().unwrap());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&folder.join("client.key")), 0o600);
            assert_eq!(mode(&folder), 0o700);
        }
        assert!(!format!("{made:?}").contains("PRIVATE"));
        std::fs::remove_file(folder.join("client.key")).unwrap();
        let e = Identity::load_or_make(&folder, "me@here").unwrap_err();
        assert_eq!(e.kind(), Kind::Invalid, "half a pair is not overwritten");
    }
}
