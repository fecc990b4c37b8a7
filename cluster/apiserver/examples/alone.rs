//! The API server alone: no controllers, no node. For trying a client against it.
//!
//! Start at [`main`]: `cargo run -p apiserver --example alone -- FOLDER ADDR:PORT`, then `kubectl --kubeconfig
//! FOLDER/admin.kubeconfig`.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use apiserver::run::{Tls, listen};
use apiserver::{Api, Settings, annotate};
use base::Clock;
use pki::{Names, Pki};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("the first argument is a folder")?);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:16443".to_owned()).parse()?;
    let clock: Arc<dyn Clock> = Arc::new(sys::clock::SystemClock);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let pki = Pki::open(&folder.join("pki"), &Names::default(), clock.now())?;
        let ca_pem = pki.authority().certificate_pem().to_owned();
        let tls = Tls {
            serving: pki.serving().clone(),
            client_ca_pem: ca_pem.clone(),
            kubelet_client: pki.kubelet_client().clone(),
        };
        let listening = listen(address, &tls).await?;
        let store = store::sqlite(&folder.join("state.db"), annotate(), store::Options::default()).await?;
        let settings = Settings::new(clock.clone(), clock.now().0 as u64, pki.tokens().clone(), ca_pem.clone());
        let api = Api::open(Arc::new(store), settings);
        api.bootstrap().await?;
        let server = format!("https://{}", listening.address()?);
        pki::kubeconfig(&folder.join("admin.kubeconfig"), &server, &ca_pem, "kubernetes-admin", pki.admin())?;
        listening.serve(api, std::future::pending()).await;
        Ok(())
    })
}
