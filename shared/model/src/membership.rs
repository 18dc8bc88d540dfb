//! Which Dataplanes a mesh admits (`spec/resources.md` 4.2).

use sunbear_proto::kuma::mesh::v1alpha1::{Dataplane, Mesh};

use crate::tags::{Tags, tag_sets};

/// Why the mesh of this name does not admit the Dataplane, if it does not. Every tag set of the Dataplane must
/// fulfil some requirement, if there are any, and no restriction.
pub fn violation(name: &str, mesh: &Mesh, dataplane: &Dataplane) -> Option<String> {
    let constraints = mesh.constraints.as_ref()?.dataplane_proxy.as_ref()?;
    for tags in tag_sets(dataplane) {
        let fulfils = |rule: &Tags| {
            // Any value will do for `*`, but there must be one.
            rule.iter().all(|(key, want)| {
                let have = tags.get(key).map_or("", String::as_str);
                if want == "*" { !have.is_empty() } else { have == want }
            })
        };
        let required = &constraints.requirements;
        if !required.is_empty() && !required.iter().any(|r| fulfils(&r.tags)) {
            return Some(format!(
                "dataplane cannot be a member of mesh \"{name}\" because its tags \"{}\" does not \
                 fulfill any requirements defined on the Mesh",
                show(tags)
            ));
        }
        if let Some(rule) = constraints.restrictions.iter().find(|r| fulfils(&r.tags)) {
            return Some(format!(
                "dataplane cannot be a member of mesh \"{name}\" because its tags \"{}\" matches \
                 restricted tags \"{}\" defined on the Mesh",
                show(tags),
                show(&rule.tags)
            ));
        }
    }
    None
}

fn show(tags: &Tags) -> String {
    tags.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, Spec, Typed, rest};
    use serde_json::{Value, json};

    fn spec(kind: Kind, value: &Value) -> Spec {
        rest::read_as(kind, value).unwrap().spec
    }

    fn check(constraints: &Value, tags: &[Value]) -> Option<String> {
        let mesh = spec(Kind::MESH, &json!({"constraints": {"dataplaneProxy": constraints}}));
        let inbound: Vec<Value> = tags.iter().map(|t| json!({"port": 1, "tags": t})).collect();
        let proxy = spec(Kind::DATAPLANE, &json!({"networking": {"inbound": inbound}}));
        let (Typed::Mesh(mesh), Typed::Dataplane(proxy)) = (mesh.typed(), proxy.typed()) else {
            panic!("specs decode");
        };
        violation("m", mesh, proxy)
    }

    #[test]
    fn rules() {
        let east = json!({"kuma.io/zone": "east", "v": "1"});
        let west = json!({"kuma.io/zone": "west"});
        let rule = |tags: Value| json!([{"tags": tags}]);
        assert_eq!(check(&json!({}), std::slice::from_ref(&east)), None);
        let required = json!({"requirements": rule(json!({"kuma.io/zone": "east", "v": "*"}))});
        assert_eq!(check(&required, std::slice::from_ref(&east)), None);
        assert_eq!(
            check(&required, &[east.clone(), west.clone()]).unwrap(),
            "dataplane cannot be a member of mesh \"m\" because its tags \"kuma.io/zone=west\" does \
             not fulfill any requirements defined on the Mesh"
        );
        let restricted = json!({"restrictions": rule(json!({"kuma.io/zone": "*"}))});
        assert_eq!(
            check(&restricted, &[east]).unwrap(),
            "dataplane cannot be a member of mesh \"m\" because its tags \"kuma.io/zone=east v=1\" \
             matches restricted tags \"kuma.io/zone=*\" defined on the Mesh"
        );
        assert_eq!(check(&restricted, &[json!({"kuma.io/zone": ""})]), None);
    }
}
