//! The images of `scripts/build-images`: the same bytes from the same files, laid out as those look for them who unpack them,
//! and runnable without rights.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use berth_harness::{Image, StatusCode, eventually, free_address, root};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::SOON;

/// Images under a tag of this test's own.
pub(crate) fn build(out: &Path, directory: &Path, tag: &str) -> String {
    let mut command = Command::new("sh");
    // Neither the folder, nor the umask, nor the time of the build is in them.
    command.args(["-c", "umask 077; exec \"$0\" \"$@\""]).arg(root().join("scripts/build-images"));
    let output = command.arg("--out").arg(out).args(["--tag", tag]).current_dir(directory).output().unwrap();
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(output.status.success(), "{said}: make wasm, scripts/build-static");
    String::from_utf8(output.stdout).unwrap()
}

/// A tag that no other process has, so that tests do not take each other's.
pub(crate) fn tag() -> String {
    format!("test-{}", std::process::id())
}

/// Removes what an engine loaded.
pub(crate) struct Loaded(pub(crate) Vec<String>);

impl Drop for Loaded {
    fn drop(&mut self) {
        // Without an engine nothing was loaded.
        let _ = Command::new("docker").args(["rmi", "--force"]).args(&self.0).output();
    }
}

/// What the agent of Istio, and Envoy Gateway, take out of an image that has the manifest of the OCI: the file called
/// plugin.wasm, in whatever folder, of the last layer, which must be a gzipped tar by its media type. (pkg/wasm/imagefetcher.go of
/// istio/istio, internal/wasm/imagefetcher.go of envoyproxy/gateway; both would also take two layers, one of them a bare module.)
fn plugin(image: &Image) -> Result<Vec<u8>, String> {
    let last = image.layers().last().ok_or("number of layers must be greater than zero")?;
    let media_type = last["mediaType"].as_str().unwrap_or_default();
    if media_type != "application/vnd.oci.image.layer.v1.tar+gzip" {
        return Err(format!("invalid media type {media_type}"));
    }
    let layer = image.blob(last)?;
    let tar = |arguments: &[&str]| -> Output { Command::new("tar").args(arguments).output().unwrap() };
    let layer = layer.to_str().unwrap();
    let names = String::from_utf8(tar(&["-tzf", layer]).stdout).unwrap();
    let name = names.lines().find(|name| name.rsplit('/').next() == Some("plugin.wasm"));
    Ok(tar(&["-xzOf", layer, name.ok_or("plugin.wasm not found in the archive")?]).stdout)
}

#[test]
fn the_same_files_give_the_same_images_wherever_and_whenever_they_are_built() {
    let [one, two] = [(); 2].map(|()| TempDir::new().unwrap());
    let said = build(one.path(), &root(), "1");
    let again = build(two.path(), two.path(), "1");

    assert_eq!(said, again);
    assert_eq!(said.lines().count(), 3);
    for name in ["berth-filter", "berth", "berth-node"] {
        let [one, two] =
            [&one, &two].map(|out| std::fs::read(out.path().join(format!("{name}.tar"))).unwrap());
        assert!(one == two, "{name}");
    }
}

#[test]
fn the_filters_image_is_what_istio_and_envoy_gateway_unpack() {
    let out = TempDir::new().unwrap();
    let tag = tag();
    let said = build(out.path(), &root(), &tag);
    let _loaded = Loaded(vec![format!("berth-filter:{tag}")]);

    let image = Image::load(&out.path().join("berth-filter.tar")).unwrap();

    let wasm = std::fs::read(root().join("target/berth.wasm")).unwrap();
    assert!(plugin(&image).unwrap() == wasm, "the filter that make wasm built");
    // What Istio compares `sha256` with is the digest of the manifest, which the script prints.
    let index = image.manifest();
    assert_eq!(index["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    let printed = said.lines().find(|line| line.ends_with(&format!(" berth-filter:{tag}"))).unwrap();
    let digest = printed.split(' ').next().unwrap();
    let manifest = image.blob(&json!({"digest": digest})).unwrap();
    let sum = Command::new("sha256sum").arg(&manifest).output().unwrap().stdout;
    assert_eq!(format!("sha256:{}", String::from_utf8_lossy(&sum).split(' ').next().unwrap()), digest);
    let text: Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    assert_eq!(&text, image.manifest());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_of_the_service_runs_without_rights_and_writes_nothing() {
    let out = TempDir::new().unwrap();
    let tag = tag() + "-service";
    build(out.path(), &root(), &tag);
    let _loaded = Loaded(vec![format!("berth:{tag}")]);
    let image = Image::load(&out.path().join("berth.tar")).unwrap();
    let config = image.config().unwrap();
    assert_eq!((&config["User"], &config["Cmd"]), (&json!("65532:65532"), &json!(["serve"])));

    let address = free_address();
    let variables = [("BERTH_LISTEN", address.to_string())];
    let mut service = image.container(&[], &variables, &["serve"]).unwrap();
    service.start().unwrap();
    let ready = async || {
        let asked = berth_harness::Client::new(address).request(berth_harness::hyper::Method::GET, "/readyz");
        asked.try_send().await.is_ok_and(|response| response.status == StatusCode::OK)
    };
    eventually(ready, SOON).await;

    // Names are looked up, and authorities are there, in an image that has nothing else.
    let ask = |arguments: &[&str]| service.exec(&[&["/usr/bin/berth"], arguments].concat()).output().unwrap();
    let url = format!("http://localhost:{}", address.port());
    let listed = ask(&["nodes", "--format", "json", "--server", &url]);
    assert!(listed.status.success(), "{listed:?}");
    let tls = ask(&["nodes", "--server", &format!("https://{address}")]);
    let says = String::from_utf8_lossy(&tls.stderr).into_owned();
    assert!(tls.status.code() == Some(3) && says.contains("does it serve http://?"), "{tls:?}");
}

/// The archives of one build.
pub(crate) fn archives(out: &TempDir, tag: &str, names: &[&str]) -> (Loaded, Vec<PathBuf>) {
    build(out.path(), &root(), tag);
    let loaded = Loaded(names.iter().map(|name| format!("{name}:{tag}")).collect());
    (loaded, names.iter().map(|name| out.path().join(format!("{name}.tar"))).collect())
}
