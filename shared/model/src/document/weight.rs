//! How much a document grows when its aliases are expanded, found without expanding them.

use std::collections::BTreeMap;

use serde_saphyr::granit_parser::{Event, Parser};

use super::value::{ValueError, one_line};

/// Bytes of text and of nodes that a document may have after expansion.
const MAX_WEIGHT: u64 = 64 * 1024 * 1024;

/// What a node costs beside its text; a million of them are the limit.
const NODE: u64 = 64;

/// Refuses a document that would expand beyond the limit, or that is not YAML at all. Linear in the
/// length of the text, and without recursion.
pub(super) fn check(text: &str) -> Result<(), ValueError> {
    let mut total: u64 = 0;
    // Weight of each anchored node that is complete, and of the total where an open one began.
    let mut weights: BTreeMap<usize, u64> = BTreeMap::new();
    let mut open: Vec<(usize, u64)> = Vec::new();
    for next in Parser::new_from_str(text) {
        let (event, span) = next.map_err(|error| ValueError {
            line: Some(error.marker().line()).filter(|l| *l > 0),
            message: one_line(&error.info()),
        })?;
        match event {
            Event::Scalar(value, _, anchor, _) => {
                let weight = NODE + value.len() as u64;
                total = total.saturating_add(weight);
                if anchor > 0 {
                    weights.insert(anchor, weight);
                }
            }
            Event::SequenceStart(_, anchor, _) | Event::MappingStart(_, anchor, _) => {
                open.push((anchor, total));
                total = total.saturating_add(NODE);
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some((anchor, start)) = open.pop()
                    && anchor > 0
                {
                    weights.insert(anchor, total.saturating_sub(start));
                }
            }
            Event::Alias(target) => {
                total = total.saturating_add(weights.get(&target).copied().unwrap_or(NODE));
            }
            _ => {}
        }
        if total > MAX_WEIGHT {
            return Err(ValueError {
                line: Some(span.start.line()),
                message: "the document is too large with its aliases expanded".to_owned(),
            });
        }
    }
    Ok(())
}
