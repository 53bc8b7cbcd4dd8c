"""Requests as an attacker would write them: what is refused, with which answer, and what is relayed nevertheless.

Each is complete: a server that understands it has nothing more to wait for. Each holds `CANARY`, which must appear
nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass

CANARY = "sk-ant-canary"
PREFIX = "/api/v1/gateway/my-agent/anthropic"
PATH = f"{PREFIX}/v1/messages"
CHUNKED = "Transfer-Encoding: chunked\r\n"
END = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it has been understood; `target` is the provider's."""

    method: str = "POST"
    target: str = "/v1/messages"
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Refused:
    """`framing` tells that two servers might disagree where it ends."""

    name: str
    raw: bytes
    status: int = 400
    code: str = "bad_request"
    framing: bool = False

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Relayed:
    """`stays` tells whether the connection can be used again."""

    name: str
    raw: bytes
    seen: Seen = Seen()
    stays: bool = True

    def __str__(self) -> str:
        return self.name


def request(
    fields: str = "",
    body: bytes = b"",
    *,
    method: str = "POST",
    target: str = PATH,
    version: str = "HTTP/1.1",
    host: str = "Host: g\r\n",
) -> bytes:
    """A request with a head of exactly these characters, each of them one byte."""
    head = f"{method} {target} {version}\r\n{host}x-api-key: {CANARY}\r\n{fields}\r\n"
    return head.encode("latin-1") + body


def length(value: str, body: bytes = b"{}") -> bytes:
    """A request with this Content-Length."""
    return request(f"Content-Length: {value}\r\n", body)


def coding(value: str) -> bytes:
    """A request with this Transfer-Encoding, and an empty chunked body."""
    return request(f"Transfer-Encoding: {value}\r\n", END)


def chunks(body: bytes) -> bytes:
    """A request with a chunked body."""
    return request(CHUNKED, body)


def at(tail: str) -> bytes:
    """A request whose target goes on so."""
    return request(target=PATH + tail)


def _framing(name: str, raw: bytes, code: str = "bad_request") -> Refused:
    return Refused(name, raw, 400, code, framing=True)


_LONG_LINE = 1 << 16

REFUSED = [
    # How long is it?
    _framing("length, then chunked", request(f"Content-Length: 5\r\n{CHUNKED}", END)),
    _framing("chunked, then length", request(f"{CHUNKED}Content-Length: 5\r\n", END)),
    _framing("two equal lengths", request("Content-Length: 2\r\nContent-Length: 2\r\n", b"{}")),
    _framing("two lengths", request("Content-Length: 2\r\nContent-Length: 3\r\n", b"{} ")),
    _framing("a list of lengths", length("2, 2")),
    _framing("length with a plus", length("+2")),
    _framing("length with a minus", length("-2")),
    _framing("length with a space inside", length("2 2")),
    _framing("length with a vertical tab", length("\x0b2")),
    _framing("length in hexadecimal", length("0x2")),
    _framing("length with an underscore", length("1_0", b"0123456789")),
    _framing("length with 20 digits", length("99999999999999999999")),
    _framing("length with 25 digits", length("0000000000000000000000002"), "bad_framing"),
    _framing("length with a fraction", length("2.0")),
    _framing("length in digits of another script", length("\xb2")),
    _framing("no length", length("")),
    _framing("gzip, chunked", coding("gzip, chunked"), "bad_framing"),
    _framing("identity, chunked", coding("identity, chunked"), "bad_framing"),
    _framing("nothing, chunked", coding(", chunked"), "bad_framing"),
    _framing("chunked, chunked", coding("chunked, chunked")),
    _framing("chunked, nothing", coding("chunked,")),
    _framing("chunked twice", request(CHUNKED + CHUNKED, END)),
    _framing("chunked and identity", request(f"{CHUNKED}Transfer-Encoding: identity\r\n", END)),
    _framing("xchunked", coding("xchunked")),
    _framing("chunkedx", coding("chunkedx")),
    _framing("identity", coding("identity")),
    _framing("no coding", coding("")),
    _framing("chunked with a parameter", coding("chunked;q=1")),
    _framing("chunked after a vertical tab", coding("\x0bchunked")),
    _framing("chunked before a tab", coding("chunked\t")),
    _framing("chunked in quotes", coding('"chunked"')),
    _framing("chunked on a folded line", coding("\r\n chunked")),
    _framing("chunked in HTTP/1.0", request(CHUNKED, END, version="HTTP/1.0"), "bad_framing"),
    _framing("space before the colon of a coding", request("Transfer-Encoding : chunked\r\n", END)),
    # Where does a line end?
    _framing("bare LF", length("2").replace(b"\r\n", b"\n")),
    _framing("bare LF after a field", request("X: 1\nContent-Length: 2\r\n", b"{}")),
    _framing("bare LF at the end", request()[:-2] + b"\n"),
    _framing("bare CR", request(f"X: a\rY: {CANARY}\r\n")),
    _framing("two CR", request("X: a\r\r\n")),
    _framing("a folded line", request(f"X: a\r\n {CANARY}\r\n")),
    _framing("a line folded with a tab", request(f"X: a\r\n\t{CANARY}\r\n")),
    _framing("a folded line first", f"POST {PATH} HTTP/1.1\r\n Host: g\r\nX: {CANARY}\r\n\r\n".encode()),
    # What is its name?
    Refused("NUL in a name", request("X\0Y: 1\r\n")),
    Refused("NUL in a value", request(f"X: {CANARY}\0\r\n")),
    Refused("escape in a value", request(f"X: {CANARY}\x1b[2J\r\n")),
    Refused("delete in a value", request(f"X: {CANARY}\x7f\r\n")),
    Refused("space before a colon", request(f"X : {CANARY}\r\n")),
    Refused("tab before a colon", request(f"X\t: {CANARY}\r\n")),
    Refused("no name", request(f": {CANARY}\r\n")),
    Refused("no colon", request(f"X{CANARY}\r\n")),
    Refused("brackets in a name", request(f"X(y): {CANARY}\r\n")),
    Refused("a name that is not ASCII", request(f"X\xe9: {CANARY}\r\n")),
    Refused("a value that is not UTF-8", request(f"X: {CANARY}\xff\xfe\r\n"), 400, "bad_header"),
    # Where does it go?
    Refused("absolute target", request(target=f"http://evil.test{PATH}"), 400, "bad_target"),
    Refused("absolute target, our host", request(target=f"http://g{PATH}"), 400, "bad_target"),
    Refused("two slashes", request(target=f"//evil.test{PATH}"), 400, "bad_target"),
    Refused("two dots", at("/../../x"), 400, "bad_target"),
    Refused("one dot", at("/./x"), 400, "bad_target"),
    Refused("two dots at the end", at("/x/.."), 400, "bad_target"),
    Refused("two dots before the prefix", request(target=f"/x/..{PATH}"), 400, "bad_target"),
    Refused("encoded dots", at("/%2e%2E/x"), 400, "bad_target"),
    Refused("half encoded dots", at("/.%2e/x"), 400, "bad_target"),
    Refused("dots between encoded slashes", at("%2f..%2Fx"), 400, "bad_target"),
    Refused("encoded NUL", at("%00"), 400, "bad_target"),
    Refused("encoded line end", at("%0d%0aX:%201"), 400, "bad_target"),
    Refused("backslash", at("\\..\\x"), 400, "bad_target"),
    Refused("encoded backslash", at("/%5c..%5Cx"), 400, "bad_target"),
    Refused("fragment", at("#x"), 400, "bad_target"),
    Refused("fragment after a query", at("?a#x"), 400, "bad_target"),
    Refused("quotation mark", at('"'), 400, "bad_target"),
    Refused("encoded prefix", request(target=PATH.replace("way", "w%61y")), 404, "unknown_route"),
    Refused("target that is not ASCII", at("/\xe9")),
    Refused("target in UTF-8", at("/\xc3\xa9")),
    Refused("NUL in the target", at("\0")),
    Refused("space in the target", at(" x")),
    Refused("tab before the target", request(target=f"\t{PATH}")),
    Refused("target without a slash", request(target=PATH[1:])),
    Refused("no target", request(target="")),
    Refused("only a query", request(target="?x")),
    Refused("asterisk", request(target="*")),
    Refused("OPTIONS *", request(target="*", method="OPTIONS"), 400, "bad_target"),
    Refused("CONNECT", request(target="evil.test:443", method="CONNECT"), 405, "method_not_allowed"),
    Refused("CONNECT with a path", request(method="CONNECT"), 405, "method_not_allowed"),
    Refused("TRACE", request(method="TRACE"), 405, "method_not_allowed"),
    # Which protocol is it?
    Refused("HTTP/0.9", f"GET {PATH}?{CANARY}\r\n\r\n".encode()),
    Refused("HTTP/0.9, named", request(version="HTTP/0.9")),
    Refused("HTTP/2 preface", f"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{CANARY}".encode()),
    Refused("HTTP/2.0", request(version="HTTP/2.0")),
    Refused("HTTP/1.2", request(version="HTTP/1.2")),
    Refused("HTTP/1.10", request(version="HTTP/1.10")),
    Refused("HTTP/01.1", request(version="HTTP/01.1")),
    Refused("http/1.1", request(version="http/1.1")),
    Refused("TLS", bytes.fromhex("1603010200010001fc0303") + CANARY.encode() * 20),
    Refused("no protocol", f"{CANARY}\r\n\r\n".encode()),
    Refused("lower-case method", request(method="post")),
    Refused("method with odd characters", request(method="PO$T")),
    Refused("unknown method", request(method="FROBNICATE")),
    Refused("space before the method", b" " + request()),
    Refused("old WebSocket", request("Sec-WebSocket-Key1: a\r\n")),
    Refused("an expectation", length("2\r\nExpect: miracles"), 417, "bad_expectation"),
    Refused("two expectations", request("Expect: 100-continue, miracles\r\n"), 417, "bad_expectation"),
    # Who is meant?
    Refused("no host", request(host="")),
    Refused("two hosts", request(host="Host: a\r\nHost: b\r\n")),
    Refused("two equal hosts", request(host="Host: a\r\nHost: a\r\n")),
    Refused("a list of hosts", request(host="Host: a, b\r\n"), 400, "bad_host"),
    Refused("host with a user", request(host="Host: a@b\r\n"), 400, "bad_host"),
    Refused("host with a path", request(host="Host: a/../@evil\r\n"), 400, "bad_host"),
    Refused("empty host", request(host="Host: \r\n"), 400, "bad_host"),
    Refused("host with a space", request(host="Host: a b\r\n"), 400, "bad_host"),
    Refused("host with a long port", request(host="Host: a:99999999\r\n"), 400, "bad_host"),
    # How much of it?
    Refused("a target too long", at(f"?{'a' * (_LONG_LINE - len(PATH))}")),
    Refused("a field too long", request(f"X: {'a' * (_LONG_LINE + 1)}\r\n")),
    Refused("a name too long", request(f"{'a' * (_LONG_LINE + 1)}: {CANARY}\r\n")),
    Refused("257 fields", request("".join(f"X{number}: a\r\n" for number in range(255)))),
    Refused("100,000 fields", request("X: a\r\n" * 100_000)),
    Refused("a head of 2 MB", request(f"X: {'a' * 60_000}\r\n" * 34), 431, "head_too_large"),
    # Which chunks?
    _framing("chunk of negative size", chunks(b"-1\r\nx\r\n" + END)),
    _framing("chunk size with a plus", chunks(b"+1\r\nx\r\n" + END)),
    _framing("chunk size with 0x", chunks(b"0x1\r\nx\r\n" + END)),
    _framing("chunk size with an underscore", chunks(b"0_1\r\nx\r\n" + END)),
    _framing("chunk size beyond 64 bits", chunks(b"10000000000000001\r\nx\r\n" + END)),
    _framing("no chunk size", chunks(b"\r\nx\r\n" + END)),
    _framing("chunk size with rubbish", chunks(b"1x\r\nx\r\n" + END)),
    _framing("chunk size before a space", chunks(b"1 \r\nx\r\n" + END)),
    _framing("chunk size after a space", chunks(b" 1\r\nx\r\n" + END)),
    _framing("chunk size before a bare LF", chunks(b"1\nx\r\n" + END)),
    _framing("chunk before a bare LF", chunks(b"1\r\nx\n" + END)),
    _framing("chunk longer than its size", chunks(b"1\r\nxy\r\n" + END)),
    _framing("chunk without a line end", chunks(b"1\r\nx" + END)),
    _framing("bare LF in an extension", chunks(b"1;a\nx\r\n" + END)),
    _framing("bare CR in an extension", chunks(b"1;a\rb\r\nx\r\n" + END)),
    _framing("NUL in an extension", chunks(b"1;\0\r\nx\r\n" + END)),
    _framing("quoted line end in an extension", chunks(b'1;a="\r\n"\r\nx\r\n' + END)),
    _framing("length in a trailer", chunks(b"1\r\nx\r\n0\r\nContent-Length: 5\r\n\r\n")),
    _framing("coding in a trailer", chunks(b"1\r\nx\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n")),
    _framing("trailer without a colon", chunks(b"1\r\nx\r\n0\r\nX\r\n\r\n")),
    Refused("a trailer too long", chunks(b"0\r\nX: " + b"a" * 70_000 + b"\r\n\r\n"), 400, "bad_request_body"),
    Refused("100,000 trailers", chunks(b"0\r\n" + b"X: a\r\n" * 100_000 + b"\r\n")),
    Refused("an extension of 1 MB", chunks(b"1;" + b"a" * (1 << 20) + b"\r\nx\r\n" + END), 400, "bad_request_body"),
    Refused("100,000 extensions", chunks(b"1;aaaaaaaa=b\r\nx\r\n" * 100_000 + END), 400, "bad_request_body"),
    Refused("a chunk size of 1 MB", chunks(b"0" * (1 << 20) + b"1\r\nx\r\n" + END), 400, "bad_request_body"),
]

_HIDDEN = request("Content-Length: 2\r\n", b"no", target="/hidden")
_QUERY = "?a=/../%00%0d%0a\\%2e%zz?"
_LONG_QUERY = f"?{'a' * (_LONG_LINE - len(PATH) - 1)}"
_CHUNK_OF_HIDDEN = b"%x\r\n%s\r\n" % (len(_HIDDEN), _HIDDEN)

RELAYED = [
    Relayed("length", length("2"), Seen(body=b"{}")),
    Relayed("length between blanks", length("\t2 "), Seen(body=b"{}")),
    Relayed("length with zeros", length("0000000000000000002"), Seen(body=b"{}")),
    Relayed("chunked", chunks(b"1\r\nx\r\n" + END), Seen(body=b"x")),
    Relayed("CHUNKED", request("TRANSFER-ENCODING: CHUNKED\r\n", b"1\r\nx\r\n" + END), Seen(body=b"x")),
    Relayed("chunk size with zeros", chunks(b"0000001\r\nx\r\n000\r\n\r\n"), Seen(body=b"x")),
    Relayed("chunk size in capitals", chunks(b"A\r\n0123456789\r\n" + END), Seen(body=b"0123456789")),
    Relayed("extensions", chunks(b'1;a=b;c="d"\r\nx\r\n0;e\r\n\r\n'), Seen(body=b"x")),
    Relayed("1,000 extensions", chunks(b"1;a=b\r\nx\r\n" * 1000 + END), Seen(body=b"x" * 1000)),
    Relayed("a trailer", chunks(b"1\r\nx\r\n0\r\nX-Trailer: " + CANARY.encode() + b"\r\n\r\n"), Seen(body=b"x")),
    Relayed("a request in a body", length(str(len(_HIDDEN)), _HIDDEN), Seen(body=_HIDDEN)),
    Relayed("a request in a chunk", chunks(_CHUNK_OF_HIDDEN + END), Seen(body=_HIDDEN)),
    Relayed("a coding by another name", request("Transfer_Encoding: chunked\r\n"), Seen()),
    Relayed("a length that is hop-by-hop", length("2\r\nConnection: content-length"), Seen(body=b"{}")),
    Relayed("GET with a body", length("2").replace(b"POST", b"GET", 1), Seen("GET", body=b"{}")),
    Relayed("line ends before it", b"\r\n\r\n" + request()),
    Relayed("two spaces before the target", request(target=f" {PATH}")),
    Relayed("tab in a value", request("X: a\tb\r\n")),
    Relayed("UTF-8 in a value", request("X: \xc3\xa9\r\n")),
    Relayed("no host in HTTP/1.0", request(host="", version="HTTP/1.0"), stays=False),
    Relayed("host with a port", request(host="Host: [::1]:80\r\n")),
    Relayed("unusual method", request(method="PROPFIND"), Seen("PROPFIND")),
    Relayed("OPTIONS", request(method="OPTIONS"), Seen("OPTIONS")),
    Relayed("two slashes inside", request(target=f"{PREFIX}//evil.test/x"), Seen(target="//evil.test/x")),
    Relayed("doubly encoded dots", at("/%252e%252e/x"), Seen(target="/v1/messages/%252e%252e/x")),
    Relayed("encoded slash", at("%2Fx"), Seen(target="/v1/messages%2Fx")),
    Relayed("dots with a parameter", at("/..;/x"), Seen(target="/v1/messages/..;/x")),
    Relayed("escape that is none", at("%zz"), Seen(target="/v1/messages%zz")),
    Relayed("anything in a query", at(_QUERY), Seen(target=f"/v1/messages{_QUERY}")),
    Relayed("the longest target", at(_LONG_QUERY), Seen(target=f"/v1/messages{_LONG_QUERY}")),
    Relayed("a long field", request(f"X: {'a' * (_LONG_LINE - 1)}\r\n")),
    Relayed("256 fields", request("".join(f"X{number}: a\r\n" for number in range(254)))),
    Relayed("upgrade to WebSocket", request("Connection: Upgrade\r\nUpgrade: websocket\r\n"), stays=False),
    Relayed("upgrade to HTTP/2", length("2\r\nConnection: Upgrade\r\nUpgrade: h2c"), Seen(body=b"{}"), stays=False),
    Relayed("RTSP", request(version="RTSP/1.0"), stays=False),
]
