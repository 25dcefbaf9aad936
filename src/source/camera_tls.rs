//! Which certificate of a camera is trusted: one that an authority vouches for, one that is known by its fingerprint, or any.
//!
//! In: what the configuration says, and an element that connects over TLS. Out: the element's database of certificates: GIO asks it about every certificate
//! that is shown, and nothing else decides. Any thread; what is asked is answered at once.

use std::path::PathBuf;
use std::sync::Arc;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;

use crate::platform::tls::{self, CertificateFingerprint, Trust};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum CameraTls {
    /// What the system's authorities vouch for.
    #[default]
    System,
    /// What those in this PEM file do.
    Ca(PathBuf),
    /// This one certificate, whatever is in it.
    Fingerprint(CertificateFingerprint),
    /// Any. Whoever is on the way can be the camera.
    Off,
}

impl CameraTls {
    /// The same for a connection of our own; `None` where there is nothing to trust.
    pub(super) fn client(&self) -> Option<Arc<rustls::ClientConfig>> {
        let config = match self {
            Self::System => tls::client(&Trust::default()),
            Self::Ca(file) => tls::client(&Trust { ca: Some(file.clone()), identity: None }),
            Self::Fingerprint(fingerprint) => tls::with_fingerprint(*fingerprint),
            Self::Off => tls::without_verification(),
        };
        config.ok()
    }
}

/// The same for rtmp2src, which can be told not to look, and nothing else.
pub(super) fn apply_to_rtmp(source: &gst::Element, tls: &CameraTls) -> Result<(), String> {
    const PROPERTY: &str = "tls-validation-flags";
    match tls {
        CameraTls::System => Ok(()),
        CameraTls::Ca(_) | CameraTls::Fingerprint(_) => {
            Err(format!("its element {} takes no certificates", source.name()))
        }
        CameraTls::Off => {
            let property = source.find_property(PROPERTY);
            let class = property.and_then(|property| glib::FlagsClass::with_type(property.value_type()));
            let nothing = class.and_then(|class| class.builder().build());
            let nothing = nothing.ok_or_else(|| format!("its element {} looks at every certificate", source.name()))?;
            source.set_property_from_value(PROPERTY, &nothing);
            Ok(())
        }
    }
}

/// Lets `source` trust what `tls` says.
pub(super) fn apply(source: &gst::Element, tls: &CameraTls) -> Result<(), String> {
    const PROPERTY: &str = "tls-database";
    let database: glib::Object = match tls {
        CameraTls::System => return Ok(()),
        CameraTls::Ca(file) => database::of_file(file)?,
        CameraTls::Fingerprint(fingerprint) => database::Answers::new(Some(*fingerprint)).upcast(),
        CameraTls::Off => database::Answers::new(None).upcast(),
    };
    let fits = source.find_property(PROPERTY).is_some_and(|property| database.type_().is_a(property.value_type()));
    if !fits {
        return Err(format!("its element {} takes no certificates", source.name()));
    }
    source.set_property(PROPERTY, database);
    Ok(())
}

/// A database that GIO asks about certificates.
mod database {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::sync::OnceLock;

    use gio_sys as ffi;
    use glib::subclass::prelude::*;
    use glib::translate::{Borrowed, from_glib_borrow, from_glib_full};
    use gstreamer::glib;
    use gstreamer::prelude::*;

    use crate::platform::tls::CertificateFingerprint;

    glib::wrapper! {
        pub struct Database(Object<ffi::GTlsDatabase, ffi::GTlsDatabaseClass>);

        match fn {
            type_ => || ffi::g_tls_database_get_type(),
        }
    }

    // SAFETY: the class's table takes the function below as it is declared.
    unsafe impl<T: ObjectImpl> IsSubclassable<T> for Database {
        fn class_init(class: &mut glib::Class<Self>) {
            Self::parent_class_init::<T>(class);
            class.as_mut().verify_chain = Some(verify_chain);
        }
    }

    /// What it trusts; `None`: everything.
    #[derive(Default)]
    pub struct Private(OnceLock<Option<CertificateFingerprint>>);

    #[glib::object_subclass]
    impl ObjectSubclass for Private {
        const NAME: &'static str = "VtagdCertificates";
        type Type = Answers;
        type ParentType = Database;
    }

    impl ObjectImpl for Private {}

    glib::wrapper! {
        pub struct Answers(ObjectSubclass<Private>) @extends Database;
    }

    impl Answers {
        pub fn new(trusted: Option<CertificateFingerprint>) -> Self {
            let answers: Self = glib::Object::new();
            let _ = answers.imp().0.set(trusted);
            answers
        }

        fn trusts(&self, certificate: &glib::Object) -> bool {
            match self.imp().0.get() {
                Some(None) => true,
                Some(Some(fingerprint)) if certificate.has_property("certificate") => {
                    let bytes = certificate.property::<Option<glib::ByteArray>>("certificate");
                    bytes.is_some_and(|bytes| CertificateFingerprint::of(&bytes) == *fingerprint)
                }
                _ => false,
            }
        }
    }

    unsafe extern "C" fn verify_chain(
        database: *mut ffi::GTlsDatabase,
        chain: *mut ffi::GTlsCertificate,
        _: *const std::ffi::c_char,
        _: *mut ffi::GSocketConnectable,
        _: *mut ffi::GTlsInteraction,
        _: ffi::GTlsDatabaseVerifyFlags,
        _: *mut ffi::GCancellable,
        _: *mut *mut glib::ffi::GError,
    ) -> ffi::GTlsCertificateFlags {
        // SAFETY: GIO hands over objects of these kinds, which live until we return.
        let (database, chain): (Borrowed<glib::Object>, Borrowed<glib::Object>) = unsafe {
            (
                from_glib_borrow(database.cast::<glib::gobject_ffi::GObject>()),
                from_glib_borrow(chain.cast::<glib::gobject_ffi::GObject>()),
            )
        };
        match database.downcast_ref::<Answers>() {
            Some(answers) if answers.trusts(&chain) => 0,
            _ => ffi::G_TLS_CERTIFICATE_UNKNOWN_CA,
        }
    }

    /// One with the authorities in a PEM file.
    pub fn of_file(file: &Path) -> Result<glib::Object, String> {
        let unusable = |why: &str| format!("{}: cannot be used: {why}", file.display());
        let path = CString::new(file.as_os_str().as_bytes()).map_err(|error| unusable(&error.to_string()))?;
        let mut error = std::ptr::null_mut();
        // SAFETY: the path is a C string; GIO gives a new object, or none and an error that is ours.
        unsafe {
            let database = ffi::g_tls_file_database_new(path.as_ptr(), &raw mut error);
            if database.is_null() {
                let error: glib::Error = from_glib_full(error);
                return Err(unusable(error.message()));
            }
            Ok(from_glib_full(database.cast::<glib::gobject_ffi::GObject>()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_that_know_no_certificates_are_told_apart() {
        gst::init().unwrap();
        let make = |name| gst::ElementFactory::make(name).build().unwrap();
        let (web, other) = (make("souphttpsrc"), make("fakesrc"));
        for tls in [CameraTls::Off, CameraTls::Fingerprint(CertificateFingerprint::of(b"x"))] {
            apply(&web, &tls).unwrap();
            assert!(apply(&other, &tls).is_err());
        }
        assert!(apply(&web, &CameraTls::Ca("/no/such.pem".into())).unwrap_err().contains("/no/such.pem"));
        assert_eq!(apply(&other, &CameraTls::System), Ok(()));
        let rtmp = make("rtmp2src");
        apply_to_rtmp(&rtmp, &CameraTls::Off).unwrap();
        assert_eq!(rtmp.property_value("tls-validation-flags").transform::<u32>().unwrap().get(), Ok(0_u32));
        assert!(apply_to_rtmp(&rtmp, &CameraTls::Ca("/no/such.pem".into())).is_err());
        assert!(apply_to_rtmp(&other, &CameraTls::Off).is_err());
    }
}
