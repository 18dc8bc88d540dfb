//! VirtualOutbound (`spec/resources.md` 11.9).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use regex::Regex;
use sunbear_proto::kuma::mesh::v1alpha1::{
    VirtualOutbound,
    virtual_outbound::{Conf, conf::TemplateParameter},
};

use super::{Path, Violations, policies::LOOSE, quoted, tags, template, values};
use crate::label;

static PARAMETER: LazyLock<Regex> = LazyLock::new(|| values::pattern("^[a-zA-Z0-9]+$"));

pub(super) fn validate(outbound: &VirtualOutbound, violations: &mut Violations) {
    tags::check_selectors(&Path::at("selectors"), &outbound.selectors, LOOSE, violations);
    let path = Path::at("conf");
    let Some(conf) = &outbound.conf else {
        violations.push(path, "has to be defined");
        return;
    };
    parameters(&path.field("parameters"), &conf.parameters, violations);
    // A trial run with values that any tag may have.
    let mut trial = |field: &str, text: &str, run: &dyn Fn(&str) -> Result<(), String>| {
        let path = path.field(field);
        if text.is_empty() {
            violations.push(path, "has to be defined");
        } else if let Err(error) = run(text) {
            let message = format!("template pre evaluation failed with error={}", quoted(&error));
            violations.push(path, message);
        }
    };
    trial("host", &conf.host, &|text| host(&rendered(conf, text, "dummy")?));
    trial("port", &conf.port, &|text| port(&rendered(conf, text, "1")?));
}

fn parameters(path: &Path, parameters: &[TemplateParameter], violations: &mut Violations) {
    let mut names = BTreeSet::new();
    for (i, parameter) in parameters.iter().enumerate() {
        let path = path.index(i);
        if !names.insert(&parameter.name) {
            violations.push(path.field("name"), "name is already used");
        }
        if !parameter.tag_key.is_empty() {
            if !tags::is_name(&parameter.tag_key) {
                violations.push(path.field("tagKey"), "must be a valid tag name");
            }
        } else if !tags::is_name(&parameter.name) {
            violations
                .push(path.field("name"), "must be a valid tag name if you are not setting tagKey");
        }
        if !PARAMETER.is_match(&parameter.name) {
            violations.push(
                path.field("name"),
                "must consist of alphanumeric characters to be used as a gotemplate key",
            );
        }
    }
    if !parameters.iter().any(|parameter| parameter.tag_key == label::SERVICE_TAG) {
        violations.push(path, "must contain a parameter with kuma.io/service as a tagKey");
    }
}

fn rendered(conf: &Conf, text: &str, value: &str) -> Result<String, String> {
    let entries: BTreeMap<&str, &str> =
        conf.parameters.iter().map(|parameter| (parameter.name.as_str(), value)).collect();
    template::render(text, &entries)
        .map_err(|error| format!("failed compiling gotemplate error={}", quoted(&error)))
}

fn host(text: &str) -> Result<(), String> {
    if values::is_dns_name(text) {
        return Ok(());
    }
    Err(format!(
        "evaluation of template with parameters didn't return a valid dns name result={}",
        quoted(text)
    ))
}

fn port(text: &str) -> Result<(), String> {
    match text.parse::<i64>() {
        Ok(1..=65_535) => Ok(()),
        Ok(port) => Err(format!(
            "evaluation of template returned a port outside of the range [1..65535] result={port}"
        )),
        Err(_) => Err(format!(
            "evaluation of template with parameters didn't evaluate to a parsable number result={}",
            quoted(text)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: &str, port: &str, want: &[&str]) {
        let parameter = |name: &str, tag_key: &str| TemplateParameter {
            name: name.to_owned(),
            tag_key: tag_key.to_owned(),
        };
        let outbound = VirtualOutbound {
            selectors: Vec::new(),
            conf: Some(Conf {
                host: host.to_owned(),
                port: port.to_owned(),
                parameters: vec![parameter("service", label::SERVICE_TAG), parameter("port", "")],
            }),
        };
        let mut violations = Violations::default();
        validate(&outbound, &mut violations);
        let got: Vec<_> =
            violations.iter().skip(1).map(|v| format!("{}: {}", v.field, v.message)).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn trial_runs() {
        check("{{.service}}.mesh", "{{.port}}", &[]);
        check("", "", &["conf.host: has to be defined", "conf.port: has to be defined"]);
        check(
            "{{.other}}",
            "{{.port}}00000",
            &[
                "conf.host: template pre evaluation failed with error=\"evaluation of template \
                 with parameters didn't return a valid dns name result=\\\"<no value>\\\"\"",
                "conf.port: template pre evaluation failed with error=\"evaluation of template \
                 returned a port outside of the range [1..65535] result=100000\"",
            ],
        );
    }
}
