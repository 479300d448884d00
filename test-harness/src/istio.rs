//! Istio's part, played by the harness: what istiod would generate from the documents of `envoy/istio/`, its EnvoyFilters applied with
//! Istio's rules ([`patch`]), what the agent makes of that, and a bootstrap that a real Envoy runs.
//!
//! No istiod runs here. The translation has the names and defaults that were read in istio/istio (master of August 2026, and tags
//! 1.28 to 1.31), for the fields that the shipped documents use; any other field is an error. Where the result
//! differs from what a proxy of Istio has:
//!
//! - Addresses: listeners bind to free ports of 127.0.0.1, and so do those that Istio does not bind (`bind_to_port: false`). A gateway's
//!   virtual hosts have the domain 127.0.0.1 too, for the harness's client. In a sidecar that is the ClusterIP of the first Service.
//! - Listeners, endpoints and extensions come from files, routes and clusters are part of the bootstrap, where Istio has them all from istiod.
//! - All clusters but the state service's have the endpoints of the world's nodes; those have a port each instead of an address.
//! - The state service's sidecar is a part of the same Envoy, and the certificates are part of the bootstrap.
//! - What only Istio's own Envoy has is left out: metadata exchange, `istio.alpn`, `istio.stats`, and workload discovery. So are
//!   metadata, access logs and tracing. Nodes have no sidecar: their clusters have no mutual TLS.
//! - The image is not pulled: its code is `target/berth.wasm`.
//! - The stats of clusters, listeners and extensions are kept, as with the annotation `sidecar.istio.io/statsInclusionPrefixes`:
//!   the harness reads them.

mod bootstrap;
mod clusters;
mod documents;
pub mod extension;
mod flavour;
mod kinds;
mod kubernetes;
mod listeners;
mod mesh;
pub mod patch;
mod peers;
mod pods;
mod routes;

pub use documents::Documents;
pub use flavour::{Flavour, Role};
pub(crate) use peers::SIDECAR;
pub use pods::Pods;

use serde_json::Value;

use self::extension::Extension;
use self::kinds::Kind;
use self::mesh::Mesh;
use self::patch::{EnvoyFilter, Outcome, Proxy, Resources};

/// A proxy that istiod configures by these documents.
#[derive(Clone, Debug)]
#[must_use = "a description does nothing before its world starts"]
pub struct Istio {
    flavour: Flavour,
    documents: Documents,
    overrides_bootstrap: bool,
    has_image: bool,
    account: String,
}

impl Istio {
    /// A proxy with the overlay that is for it.
    pub fn new(flavour: Flavour) -> Self {
        Self::with(flavour, Documents::of(flavour.overlay()))
    }

    /// A proxy with any documents.
    pub fn with(flavour: Flavour, documents: Documents) -> Self {
        let account = flavour.account().into();
        Self { flavour, documents, overrides_bootstrap: false, has_image: true, account }
    }

    /// Changes the documents.
    pub fn documents(mut self, change: impl FnOnce(Documents) -> Documents) -> Self {
        self.documents = change(self.documents);
        self
    }

    /// Sets the annotation `sidecar.istio.io/bootstrapOverride` to the overlay's ConfigMap.
    pub fn overriding_bootstrap(mut self) -> Self {
        self.overrides_bootstrap = true;
        self
    }

    /// The filter's image cannot be pulled.
    pub fn without_image(mut self) -> Self {
        self.has_image = false;
        self
    }

    /// The service account that the proxy runs as, such as `cluster.local/ns/games/sa/client`, instead of the flavour's.
    pub fn account(mut self, account: &str) -> Self {
        self.account = account.into();
        self
    }

    /// Which proxy it is.
    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// What istiod generates before EnvoyFilters act.
    ///
    /// # Errors
    /// If a document has what this translator does not know.
    pub fn generated(&self) -> Result<Resources, String> {
        let mesh = Mesh::new(&self.documents)?;
        let mut resources = Resources {
            listeners: listeners::listeners(&mesh, &self.flavour),
            clusters: clusters::clusters(&mesh, &self.flavour)?,
            routes: routes::routes(&mesh, &self.flavour)?,
            extensions: Vec::new(),
        };
        let mut extensions = Vec::new();
        for kind in ["WasmPlugin", "TrafficExtension"] {
            for document in self.documents.of_kind(kind) {
                extensions.push(Extension::parse(document)?);
            }
        }
        extension::install(&mut resources, &extensions, &self.proxy())?;
        Ok(resources)
    }

    /// What istiod sends: with the EnvoyFilters, and what each of their patches did.
    ///
    /// # Errors
    /// If a document has what this translator or the patches do not know.
    pub fn patched(&self) -> Result<(Resources, Vec<Outcome>), String> {
        let mut resources = self.generated()?;
        let mut filters = Vec::new();
        for document in self.documents.of_kind("EnvoyFilter") {
            filters.push(EnvoyFilter::parse(document)?);
        }
        let outcomes = patch::apply(&mut resources, &filters, &self.proxy());
        Ok((resources, outcomes))
    }

    fn proxy(&self) -> Proxy {
        let role = match self.flavour.role {
            Role::Gateway => patch::Role::Gateway,
            Role::Sidecar => patch::Role::Sidecar,
        };
        let labels = self.flavour.labels().iter().map(|&(key, value)| (key.into(), value.into()));
        Proxy {
            role,
            namespace: self.flavour.namespace().into(),
            labels: labels.collect(),
            istio_version: self.flavour.istio.into(),
        }
    }

    /// What the annotated ConfigMap adds to the bootstrap.
    fn custom_bootstrap(&self) -> Result<Option<Value>, String> {
        if !self.overrides_bootstrap {
            return Ok(None);
        }
        for kind in self.documents.kinds()? {
            if let Kind::ConfigMap(map) = kind {
                let text = map.data.get("custom_bootstrap.json").ok_or("no custom_bootstrap.json")?;
                return serde_json::from_str(text).map(Some).map_err(|error| error.to_string());
            }
        }
        Err("the overlay has no ConfigMap".into())
    }
}
