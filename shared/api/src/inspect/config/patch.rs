//! The difference of two documents as a JSON Patch (RFC 6902). What is taken away is tested before,
//! so that a reader sees what it was.

use serde::Serialize;
use serde_json::Value;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Step {
    op: &'static str,
    path: String,
    value: Value,
}

/// The steps from one document to another.
pub(super) fn between(before: &Value, after: &Value) -> Vec<Step> {
    let mut steps = Vec::new();
    compare(&mut steps, "", before, after);
    steps
}

fn compare(steps: &mut Vec<Step>, path: &str, before: &Value, after: &Value) {
    match (before, after) {
        _ if before == after => {}
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in old {
                let path = format!("{path}/{}", escape(key));
                match new.get(key) {
                    Some(other) => compare(steps, &path, value, other),
                    None => remove(steps, &path, value),
                }
            }
            for (key, value) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
                add(steps, format!("{path}/{}", escape(key)), value);
            }
        }
        (Value::Array(old), Value::Array(new)) => compare_items(steps, path, old, new),
        _ => {
            remove(steps, path, before);
            add(steps, path.to_owned(), after);
        }
    }
}

/// What is alike at both ends stays; what is left is compared by position.
fn compare_items(steps: &mut Vec<Step>, path: &str, old: &[Value], new: &[Value]) {
    let start = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[start..], &new[start..]);
    let end = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[..old.len() - end], &new[..new.len() - end]);
    let both = old.len().min(new.len());
    let at = |i: usize| format!("{path}/{}", start + i);
    for (i, (old, new)) in old.iter().zip(new).enumerate() {
        compare(steps, &at(i), old, new);
    }
    for (i, value) in old.iter().enumerate().skip(both).rev() {
        remove(steps, &at(i), value);
    }
    for (i, value) in new.iter().enumerate().skip(both) {
        add(steps, at(i), value);
    }
}

fn remove(steps: &mut Vec<Step>, path: &str, value: &Value) {
    for op in ["test", "remove"] {
        steps.push(Step { op, path: path.to_owned(), value: value.clone() });
    }
}

fn add(steps: &mut Vec<Step>, path: String, value: &Value) {
    steps.push(Step { op: "add", path, value: value.clone() });
}

fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Does what a patch says.
    fn apply(document: &mut Value, step: &Step) {
        let Some((parent, last)) = step.path.rsplit_once('/') else {
            // The whole document.
            match step.op {
                "add" => *document = step.value.clone(),
                _ => assert_eq!(*document, step.value),
            }
            return;
        };
        if step.op == "test" {
            assert_eq!(document.pointer(&step.path), Some(&step.value));
            return;
        }
        match document.pointer_mut(parent).unwrap() {
            Value::Object(map) => {
                let key = last.replace("~1", "/").replace("~0", "~");
                let had = map.remove(&key);
                assert_eq!(had.is_some(), step.op == "remove");
                if step.op == "add" {
                    map.insert(key, step.value.clone());
                }
            }
            Value::Array(items) => {
                let index = last.parse().unwrap();
                if step.op == "add" {
                    items.insert(index, step.value.clone());
                } else {
                    assert_eq!(items.remove(index), step.value);
                }
            }
            other => panic!("{other} has no members"),
        }
    }

    #[test]
    fn what_was_comes_before_what_is() {
        let before = json!({"t/x": {"n": {"idle": "3600s", "same": 1, "list": [1, 2, 3, 4]}}});
        let after = json!({"t/x": {"n": {"idle": "322s", "same": 1, "list": [1, 4]}, "m": {}}});
        let step = |op, path: &str, value: Value| Step { op, path: path.to_owned(), value };
        assert_eq!(
            between(&before, &after),
            [
                step("test", "/t~1x/n/idle", json!("3600s")),
                step("remove", "/t~1x/n/idle", json!("3600s")),
                step("add", "/t~1x/n/idle", json!("322s")),
                step("test", "/t~1x/n/list/2", json!(3)),
                step("remove", "/t~1x/n/list/2", json!(3)),
                step("test", "/t~1x/n/list/1", json!(2)),
                step("remove", "/t~1x/n/list/1", json!(2)),
                step("add", "/t~1x/m", json!({})),
            ]
        );
        assert_eq!(between(&before, &before), []);
    }

    fn document() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(Value::Null), (0..3_i32).prop_map(Into::into)];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                prop::collection::btree_map("[a~/]{0,2}", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_steps_lead_there(before in document(), after in document()) {
            let mut got = before.clone();
            for step in between(&before, &after) {
                apply(&mut got, &step);
            }
            prop_assert_eq!(got, after);
        }
    }
}
