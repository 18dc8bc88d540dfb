//! Tests of whole processes over the network; see `tests/it`. They use public interfaces alone.
