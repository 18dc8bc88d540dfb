//! Clients that break the rules of HTTP: requests within requests, and floods.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use sunbear_gateway_live::{
    Call, Case, Frames, Gateway, Scene, Stream, cases, dial, eventually_async, within,
};

use crate::edge::statuses;

const CASES: &[Case] = cases! {
    "edge/smuggling" => smuggling,
    "edge/smuggling-over-http2" => smuggling_over_http2,
    "edge/slow-headers" => slow_headers,
    "edge/rapid-reset" => rapid_reset,
    "edge/too-many-streams" => too_many_streams,
    "edge/floods" => floods,
};

#[tokio::test(flavor = "multi_thread")]
async fn hostile() {
    sunbear_gateway_live::run(CASES).await;
}

pub(crate) fn features() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|case| case.feature)
}

/// A listener for `one.test` whose only route leads to `a`, which has seen nothing yet.
async fn start(gateway: &Gateway) -> (Scene<'_>, u16) {
    let mut scene = gateway.scene();
    let port = scene.listener("{protocol: HTTP, hostname: one.test}");
    scene.route("route", "http: {rules: [{matches: [{prefix: /}], to: a}]}");
    scene.apply().await;
    gateway.backend("a").take_seen();
    (scene, port)
}

/// The gateway serves others.
async fn serves(port: u16) {
    let answer = Call::get(port, "/").host("one.test").send().await;
    assert_eq!((answer.status, answer.from()), (200, "a"));
}

/// The request that nobody may hear of; it is in the body of another.
const INNER: &str = "GET /smuggled HTTP/1.1\r\nhost: one.test\r\n\r\n";

/// A request that has an end that one reader may see elsewhere than another. What is behind the name
/// is what stands between the head's first lines and [`INNER`], and what is behind that; `<n>` stands for
/// its length, `<h>` for that in hexadecimal. Statuses are those of the request, and of a good one
/// behind it where the connection goes on.
const SMUGGLING: &[(&str, &str, &str, &[&str])] = &[
    // Ends that contradict each other.
    ("both", "content-length: <n>\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "", REFUSED),
    (
        "both, the other way",
        "transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n<h>\r\n",
        "\r\n0\r\n\r\n",
        REFUSED,
    ),
    ("two lengths", "content-length: 0\r\ncontent-length: <n>\r\n\r\n", "", REFUSED),
    ("two lengths, the other way", "content-length: <n>\r\ncontent-length: 0\r\n\r\n", "", REFUSED),
    ("the same length twice", "content-length: <n>\r\ncontent-length: <n>\r\n\r\n", "", REFUSED),
    ("a list of lengths", "content-length: <n>, <n>\r\n\r\n", "", REFUSED),
    // Lengths that are none.
    ("a sign", "content-length: +<n>\r\n\r\n", "", REFUSED),
    ("negative", "content-length: -<n>\r\n\r\n", "", REFUSED),
    ("hexadecimal", "content-length: 0x<h>\r\n\r\n", "", REFUSED),
    ("two numbers", "content-length: <n> 0\r\n\r\n", "", REFUSED),
    ("no number", "content-length: \r\n\r\n", "", REFUSED),
    ("too large", "content-length: 18446744073709551616\r\n\r\n", "", REFUSED),
    ("a space before the colon", "content-length : <n>\r\n\r\n", "", REFUSED),
    // Encodings that are none.
    ("identity", "transfer-encoding: identity\r\n\r\n", "", UNKNOWN),
    ("identity last", "transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n", "", UNKNOWN),
    ("identity first", "transfer-encoding: identity, chunked\r\n\r\n0\r\n\r\n", "", UNKNOWN),
    ("unknown", "transfer-encoding: xchunked\r\n\r\n", "", UNKNOWN),
    (
        "two encodings",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
        "",
        UNKNOWN,
    ),
    (
        "a tabulator that is none",
        "transfer-encoding: \x0bchunked\r\ncontent-length: <n>\r\n\r\n",
        "",
        REFUSED,
    ),
    (
        "a space before the encoding's colon",
        "transfer-encoding : chunked\r\ncontent-length: <n>\r\n\r\n",
        "",
        REFUSED,
    ),
    // Lines that are none.
    (
        "an encoding on two lines",
        "transfer-encoding:\r\n chunked\r\ncontent-length: <n>\r\n\r\n",
        "",
        REFUSED,
    ),
    ("a NUL", "x-a: b\0c\r\ncontent-length: <n>\r\n\r\n", "", REFUSED),
    ("a name with a space", "x a: b\r\ncontent-length: <n>\r\n\r\n", "", REFUSED),
    ("no colon", "xab\r\ncontent-length: <n>\r\n\r\n", "", REFUSED),
    ("no name", ": b\r\ncontent-length: <n>\r\n\r\n", "", REFUSED),
    // One reading, which is passed on in its plain form.
    (
        "a value on two lines",
        "x-a: b\r\n transfer-encoding: chunked\r\ncontent-length: <n>\r\n\r\n",
        "",
        ONE,
    ),
    ("an end without CR", "x-a: b\ncontent-length: <n>\r\n\r\n", "", ONE),
    ("a last end without CR", "content-length: <n>\r\n\n", "", ONE),
    ("upper case", "Transfer-Encoding: CHUNKED\r\n\r\n<h>\r\n", "\r\n0\r\n\r\n", ONE),
    ("an extension", "transfer-encoding: chunked\r\n\r\n<h>;a=b\r\n", "\r\n0\r\n\r\n", ONE),
    ("a length for GET", "content-length: <n>\r\n\r\n", "", ONE),
    (
        "a CR in a value",
        "x-a: b\rtransfer-encoding: chunked\r\ncontent-length: <n>\r\n\r\n",
        "",
        ONE,
    ),
    ("a space behind a size", "transfer-encoding: chunked\r\n\r\n<h> \r\n", "\r\n0\r\n\r\n", ONE),
    // Chunks.
    (
        "an extension without CR",
        "transfer-encoding: chunked\r\n\r\n<h>;a\n",
        "\r\n0\r\n\r\n",
        REFUSED,
    ),
    ("a last extension without CR", "transfer-encoding: chunked\r\n\r\n0;\n\r\n", "", REFUSED),
    (
        "a CR in an extension",
        "transfer-encoding: chunked\r\n\r\n<h>;a\rb\r\n",
        "\r\n0\r\n\r\n",
        REFUSED,
    ),
    (
        "an extension that spills",
        "transfer-encoding: chunked\r\n\r\n2;\nxx\r\n<h>\r\n0\r\n\r\n",
        "\r\n0\r\n\r\n",
        REFUSED,
    ),
    ("a prefix", "transfer-encoding: chunked\r\n\r\n0x<h>\r\n", "\r\n0\r\n\r\n", REFUSED),
    ("a negative size", "transfer-encoding: chunked\r\n\r\n-1\r\n", "\r\n0\r\n\r\n", REFUSED),
    (
        "a large size",
        "transfer-encoding: chunked\r\n\r\n10000000000000000<h>\r\n",
        "\r\n0\r\n\r\n",
        REFUSED,
    ),
    ("chunks without CR", "transfer-encoding: chunked\r\n\r\n<h>\n", "\n0\n\n", REFUSED),
    ("no size", "transfer-encoding: chunked\r\n\r\n\r\n", "\r\n0\r\n\r\n", REFUSED),
    (
        "a trailer with a length",
        "transfer-encoding: chunked\r\n\r\n<h>\r\n",
        "\r\n0\r\ncontent-length: <n>\r\nhost: two.test\r\n\r\n",
        ONE,
    ),
];

const REFUSED: &[&str] = &["400"];
const UNKNOWN: &[&str] = &["501"];
/// The request, with the inner one as its body, and a good one.
const ONE: &[&str] = &["200", "200"];

async fn smuggling(gateway: &Gateway) {
    let (_scene, port) = start(gateway).await;
    let number = INNER.len().to_string();
    let hexadecimal = format!("{:x}", INNER.len());
    let filled = |text: &str| text.replace("<n>", &number).replace("<h>", &hexadecimal);
    let rows = SMUGGLING.iter().enumerate().map(async |(row, (what, before, behind, expected))| {
        let method = if what.contains("GET") { "GET" } else { "POST" };
        let (before, behind) = (filled(before), filled(behind));
        let text = format!(
            "{method} /outer/{row} HTTP/1.1\r\nhost: one.test\r\n{before}{INNER}{behind}\
             GET /last HTTP/1.1\r\nhost: one.test\r\nconnection: close\r\n\r\n"
        );
        let got = statuses(port, &text).await;
        (got != *expected).then(|| format!("{what}: {got:?}, not {expected:?}"))
    });
    let wrong: Vec<String> = join_all(rows).await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let mut seen = gateway.backend("a").take_seen();
    seen.retain(|seen| seen.path != "/last" || !seen.body.is_empty());
    for seen in &seen {
        let row = seen.path.strip_prefix("/outer/").and_then(|row| row.parse::<usize>().ok());
        let (what, .., expected) = SMUGGLING[row.unwrap_or_else(|| panic!("{seen:?}"))];
        // It has the inner one for its body, and no header more than was meant. Envoy passes headers
        // on before it has read the body that makes it refuse; nothing of that body follows.
        let broken_off = expected == REFUSED && seen.body.is_empty();
        assert!(broken_off || (expected, &*seen.body) == (ONE, INNER), "{what}: {seen:?}");
        for (name, values) in &seen.headers {
            assert!(!name.contains(char::is_control), "{what}: {seen:?}");
            assert!(!values.iter().any(|v| v.contains(char::is_control)), "{what}: {seen:?}");
        }
        let chunked = seen.headers.contains_key("transfer-encoding");
        assert!(!(chunked && seen.headers.contains_key("content-length")), "{what}: {seen:?}");
    }
    let expected = SMUGGLING.iter().filter(|(.., expected)| *expected == ONE).count();
    assert_eq!(seen.iter().filter(|seen| !seen.body.is_empty()).count(), expected);
    serves(port).await;
}

/// What HTTP/2 can say and HTTP/1.1 would read otherwise.
async fn smuggling_over_http2(gateway: &Gateway) {
    let (_scene, port) = start(gateway).await;
    let a = gateway.backend("a");
    let inner = "b\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: one.test\r\n\r\n";
    let path = " /  HTTP/1.1\r\nhost: one.test\r\n\r\nGET /smuggled";
    let rows: &[(&str, &str, &[(&str, &str)])] = &[
        ("lines in a value", "/", &[("x-a", inner)]),
        ("a line feed in a value", "/", &[("x-a", "b\nc: d")]),
        ("a NUL in a value", "/", &[("x-a", "b\0")]),
        ("lines in a name", "/", &[("x-a\r\nb", "c")]),
        ("a colon in a name", "/", &[("x-a: b", "c")]),
        ("upper case", "/", &[("X-A", "b")]),
        ("no name", "/", &[("", "b")]),
        ("lines in the path", path, &[]),
        ("a space in the path", "/ HTTP/1.1", &[]),
        ("no path", "", &[]),
        ("two paths", "/", &[(":path", "/smuggled")]),
        ("two authorities", "/", &[(":authority", "two.test")]),
        ("a pseudo-header that is none", "/", &[(":x", "b")]),
        ("a pseudo-header too late", "/", &[("x-a", "b"), (":scheme", "https")]),
        ("an encoding", "/", &[("transfer-encoding", "chunked")]),
        ("a connection header", "/", &[("connection", "x-forwarded-for")]),
        ("an upgrade", "/", &[("upgrade", "websocket")]),
        ("a length without a body", "/", &[("content-length", "5")]),
        ("two lengths", "/", &[("content-length", "0"), ("content-length", "5")]),
    ];
    join_all(rows.iter().map(async |(what, path, headers)| {
        let mut frames = Frames::open(port).await;
        frames.get(1, path, headers, true).await.unwrap();
        // An answer of Envoy's own, the stream's end or the connection's.
        while let Some(frame) = frames.next().await {
            assert_ne!(frame.kind, Frames::DATA, "{what}: an answer");
            if [Frames::HEADERS, Frames::RST_STREAM, Frames::GOAWAY].contains(&frame.kind) {
                break;
            }
        }
    }))
    .await;
    let seen = a.take_seen();
    assert!(seen.is_empty(), "{seen:?}");
    // A body that is longer than was said.
    let mut frames = Frames::open(port).await;
    frames.get(1, "/", &[("content-length", "1")], false).await.unwrap();
    frames.send(Frames::DATA, Frames::END_STREAM, 1, INNER.as_bytes()).await.unwrap();
    while let Some(frame) = frames.next().await {
        assert_ne!(frame.kind, Frames::HEADERS, "an answer");
        if frame.kind == Frames::RST_STREAM || frame.kind == Frames::GOAWAY {
            break;
        }
    }
    assert!(a.take_seen().iter().all(|seen| seen.path == "/" && seen.body.len() < 2));
    serves(port).await;
}

/// Headers that never end hold no connection for long, and nobody else up.
async fn slow_headers(gateway: &Gateway) {
    const CLIENTS: u64 = 50;
    let (_scene, port) = start(gateway).await;
    let timeouts = async || gateway.envoy.stat(r"http\.edge\.downstream_rq_header_timeout").await;
    let before = timeouts().await;
    let mut held: Vec<Stream> = Vec::new();
    for _ in 0..CLIENTS {
        let mut stream = dial(port, None).await.unwrap();
        stream.send("GET / HTTP/1.1\r\nhost: one.test\r\nx-a: ").await.unwrap();
        held.push(stream);
    }
    serves(port).await;
    for stream in &mut held {
        let answer = stream.rest().await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    assert_eq!(timeouts().await, before + CLIENTS);
    // One that goes on, byte by byte, is no better off.
    let mut stream = dial(port, None).await.unwrap();
    stream.send("GET / HTTP/1.1\r\nhost: one.test\r\nx-a: ").await.unwrap();
    let ended = async {
        while stream.send("a").await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    within("the connection ends", ended).await;
    assert_eq!(timeouts().await, before + CLIENTS + 1);
    // The same in HTTP/2: headers without their end.
    let mut frames = Frames::open(port).await;
    frames.send(Frames::HEADERS, 0, 1, &[0x82]).await.unwrap();
    let ended = frames.next_of(Frames::RST_STREAM).await;
    assert!(ended.is_none_or(|frame| frame.stream == 1));
    assert_eq!(timeouts().await, before + CLIENTS + 2);
    assert_eq!(gateway.backend("a").take_seen().len(), 1);
}

/// Streams that are opened and ended at once: the connection ends, and little of it is heard.
async fn rapid_reset(gateway: &Gateway) {
    const STREAMS: u32 = 20_000;
    let (_scene, port) = start(gateway).await;
    let ended =
        async || gateway.envoy.stat(r"http\.edge\.downstream_rq_too_many_premature_resets").await;
    let before = ended().await;
    let mut frames = Frames::open(port).await;
    let mut sent = 0;
    while sent < STREAMS && frames.get_and_reset(2 * sent + 1, "/").await.is_ok() {
        sent += 1;
    }
    eventually_async("the connection is ended", async || (ended().await > before).then_some(()))
        .await;
    while frames.next().await.is_some() {}
    let heard = gateway.backend("a").take_seen().len();
    assert!(heard <= 500, "{heard} of {sent}");
    serves(port).await;
}

/// A connection has 100 streams at once, and small windows.
async fn too_many_streams(gateway: &Gateway) {
    const STREAMS: u32 = 150;
    let (_scene, port) = start(gateway).await;
    let mut frames = Frames::open(port).await;
    let settings = frames.next_of(Frames::SETTINGS).await.unwrap();
    let settings: BTreeMap<u16, u32> = settings
        .payload
        .chunks_exact(6)
        .map(|entry| {
            let number = u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]);
            (u16::from_be_bytes([entry[0], entry[1]]), number)
        })
        .collect();
    // The number of streams, and the window of a stream.
    assert_eq!((settings.get(&3), settings.get(&4)), (Some(&100), Some(&65536)));
    let window = frames.next_of(Frames::WINDOW_UPDATE).await.unwrap();
    // Connections begin with 65,535.
    assert_eq!(
        (window.stream, window.payload),
        (0, (1_048_576_u32 - 65_535).to_be_bytes().to_vec())
    );
    for number in 0..STREAMS {
        // The bodies do not end, nor does the stream.
        frames.get(2 * number + 1, "/", &[], false).await.unwrap();
    }
    for _ in 100..STREAMS {
        let refused = frames.next_of(Frames::RST_STREAM).await.unwrap();
        // REFUSED_STREAM, and never one of the first hundred.
        assert_eq!(refused.error(), Some(7));
        assert!(refused.stream > 200, "{refused:?}");
    }
    let active = gateway.envoy.stat(r"http\.edge\.downstream_rq_active").await;
    assert_eq!(active, 100);
    serves(port).await;
}

/// Frames that cost their sender nothing.
async fn floods(gateway: &Gateway) {
    const FRAMES: u32 = 20_000;
    let (_scene, port) = start(gateway).await;
    let rows: &[(&str, &str, u8, &[u8])] = &[
        ("empty data", "inbound_empty_frames_flood", Frames::DATA, &[]),
        ("priorities", "inbound_priority_frames_flood", Frames::PRIORITY, &[0, 0, 0, 0, 1]),
        ("windows", "inbound_window_update_frames_flood", Frames::WINDOW_UPDATE, &[0, 0, 0, 1]),
    ];
    for (what, counter, kind, payload) in rows {
        let counted = async || gateway.envoy.stat(&format!(r"http2\.{counter}")).await;
        let before = counted().await;
        let mut frames = Frames::open(port).await;
        frames.get(1, "/", &[], false).await.unwrap();
        let mut sent = 0;
        while sent < FRAMES && frames.send(*kind, 0, 1, payload).await.is_ok() {
            sent += 1;
        }
        eventually_async(what, async || (counted().await > before).then_some(())).await;
        while frames.next().await.is_some() {}
        serves(port).await;
    }
    // Headers without an end, 16 KiB at a time.
    let mut frames = Frames::open(port).await;
    frames.send(Frames::HEADERS, Frames::END_STREAM, 1, &[0x82]).await.unwrap();
    let mut block = vec![0, 3, b'x', b'-', b'a', 127, 0x81, 0x7d];
    block.extend(vec![b'a'; 127 + 1 + 125 * 128]);
    let mut sent = 0;
    while sent < FRAMES && frames.send(Frames::CONTINUATION, 0, 1, &block).await.is_ok() {
        sent += 1;
    }
    assert!(sent < FRAMES, "nobody ended it");
    while frames.next().await.is_some() {}
    serves(port).await;
}
