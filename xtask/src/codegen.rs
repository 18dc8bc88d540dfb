//! Generates `shared/proto/src/generated` from the `.proto` files: our own under `proto/`, Envoy's
//! from the crate `envoy-types`, which ships them. The output is committed; nobody who builds
//! Sunbear needs a protobuf compiler.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use prost::Message as _;
use protox::{
    file::{ChainFileResolver, DescriptorSetFileResolver, GoogleFileResolver, IncludeFileResolver},
    prost_reflect::{DescriptorPool, prost_types::FileDescriptorSet},
};

/// Envoy files that we name in code; their imports follow.
const ENVOY_ROOTS: &[&str] = &[
    "envoy/config/cluster/v3/cluster.proto",
    "envoy/config/endpoint/v3/endpoint.proto",
    "envoy/config/listener/v3/listener.proto",
    "envoy/config/route/v3/route.proto",
    "envoy/config/trace/v3/datadog.proto",
    "envoy/config/trace/v3/opentelemetry.proto",
    "envoy/config/trace/v3/zipkin.proto",
    "envoy/extensions/access_loggers/file/v3/file.proto",
    "envoy/extensions/compression/gzip/compressor/v3/gzip.proto",
    "envoy/extensions/filters/http/compressor/v3/compressor.proto",
    "envoy/extensions/filters/http/fault/v3/fault.proto",
    "envoy/extensions/filters/http/local_ratelimit/v3/local_rate_limit.proto",
    "envoy/extensions/filters/http/rbac/v3/rbac.proto",
    "envoy/extensions/filters/http/router/v3/router.proto",
    "envoy/extensions/filters/listener/tls_inspector/v3/tls_inspector.proto",
    "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto",
    "envoy/extensions/filters/network/rbac/v3/rbac.proto",
    "envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.proto",
    "envoy/extensions/transport_sockets/tls/v3/tls.proto",
    "envoy/extensions/upstreams/http/v3/http_protocol_options.proto",
    "envoy/service/discovery/v3/ads.proto",
    "envoy/service/runtime/v3/rtds.proto",
];

/// Packages whose messages nothing of ours refers to: options that steer other generators.
const DROPPED: &[&str] = &["validate", "udpa", "xds.annotations", "envoy.annotations"];

pub(crate) fn run(root: &Path, check: bool) -> Result<()> {
    let out = root.join("shared/proto/src/generated");
    let temporary = root.join("target/codegen");
    if temporary.exists() {
        fs::remove_dir_all(&temporary)?;
    }
    fs::create_dir_all(&temporary)?;
    generate(root, &temporary)?;
    if check {
        compare(&temporary, &out)
    } else {
        if out.exists() {
            fs::remove_dir_all(&out)?;
        }
        fs::create_dir_all(&out)?;
        for file in files(&temporary)? {
            fs::copy(temporary.join(&file), out.join(&file))?;
        }
        Ok(())
    }
}

fn generate(root: &Path, out: &Path) -> Result<()> {
    // Envoy's files come already linked: their relative names mislead protox, which looks them up
    // among all files and not only the imported ones.
    let envoy = fs::read(envoy_descriptors(root)?)?;
    let ours = root.join("proto");
    let mut resolver = ChainFileResolver::new();
    resolver.add(IncludeFileResolver::new(ours.clone()));
    resolver.add(DescriptorSetFileResolver::decode(envoy.as_slice())?);
    resolver.add(GoogleFileResolver::new());
    let mut inputs: Vec<String> = ENVOY_ROOTS.iter().map(|p| (*p).to_owned()).collect();
    collect(&ours, &ours, &mut inputs)?;
    inputs.sort();
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(&inputs)?;
    let set = compiler.file_descriptor_set();

    let slim = FileDescriptorSet {
        file: set
            .file
            .iter()
            .cloned()
            .map(|mut f| {
                f.source_code_info = None;
                f
            })
            .collect(),
    };
    let bytes = slim.encode_to_vec();
    DescriptorPool::decode(bytes.as_slice()).context("the descriptors do not link")?;
    fs::write(out.join("descriptors.bin"), bytes)?;

    let mut config = prost_build::Config::new();
    config
        .out_dir(out)
        .enable_type_names()
        .type_name_domain(["."], "type.googleapis.com")
        .btree_map(["."])
        .include_file("mod.rs")
        .disable_comments([".envoy", ".google", ".xds", ".cel", ".udpa", ".validate"]);
    tonic_prost_build::configure().out_dir(out).compile_fds_with_config(set, config)?;

    for file in files(out)? {
        let package = file.trim_end_matches(".rs");
        if DROPPED.iter().any(|d| package == *d || package.starts_with(&format!("{d}."))) {
            fs::write(out.join(&file), "")?;
        }
    }
    Ok(())
}

/// All `.proto` files below `dir`, named from `base`.
fn collect(base: &Path, dir: &Path, into: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(base, &path, into)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            into.push(path.strip_prefix(base)?.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

fn envoy_descriptors(root: &Path) -> Result<PathBuf> {
    let output = Command::new(env!("CARGO"))
        .current_dir(root)
        .args(["metadata", "--format-version", "1", "--locked", "--features", "xtask/codegen"])
        .output()?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let manifest = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|p| p["name"] == "envoy-types")
        .and_then(|p| p["manifest_path"].as_str())
        .context("envoy-types is not in the graph")?;
    let folder = Path::new(manifest).parent().context("no folder")?;
    Ok(folder.join("src/generated/types.bin"))
}

fn files(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn compare(fresh: &Path, committed: &Path) -> Result<()> {
    let (a, b) = (files(fresh)?, files(committed)?);
    let differing: Vec<_> = a
        .iter()
        .chain(b.iter())
        .filter(|f| fs::read(fresh.join(f)).ok() != fs::read(committed.join(f)).ok())
        .collect();
    if differing.is_empty() {
        Ok(())
    } else {
        bail!("generated code is stale: {differing:?}; run `cargo codegen`")
    }
}
