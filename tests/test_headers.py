"""What answers carry: who may read them from elsewhere, rules for browsers, an id, and HEAD and OPTIONS for all."""

import pytest

from app import app as application
from app import create_app

from .conftest import CONFIG, PLACEHOLDERS

SPA = "http://localhost:3000"
EXPOSED = {"link", "location", "retry-after", "etag", "x-request-id", "idempotent-replayed"}
EXPOSED |= {"date", "www-authenticate", "content-disposition"}


def words(header):
    return {word.strip().lower() for word in header.split(",")}


class TestOrigin:
    @pytest.mark.parametrize("origin", [SPA, "http://localhost:5173"])
    @pytest.mark.parametrize("path", ["/events", "/nowhere", "/me"])
    def test_allowed_one_may_read(self, client, origin, path):
        headers = client.get(path, headers={"Origin": origin}).headers
        assert headers["Access-Control-Allow-Origin"] == origin
        assert words(headers["Access-Control-Expose-Headers"]) >= EXPOSED
        assert "origin" in words(",".join(headers.getlist("Vary")))
        assert "Access-Control-Allow-Credentials" not in headers

    @pytest.mark.parametrize(
        "origin",
        ["http://localhost:3000.evil.example", "http://localhost:30000", "https://localhost:3000", "null", "*", "x"],
    )
    def test_other_one_may_not(self, client, origin):
        assert "Access-Control-Allow-Origin" not in client.get("/events", headers={"Origin": origin}).headers

    def test_no_origin_no_word_of_it(self, client):
        assert not any(name.startswith("Access-Control") for name, _ in client.get("/events").headers)

    def test_configuration_names_them(self, app):
        config = {**CONFIG, "SQLALCHEMY_DATABASE_URI": app.config["SQLALCHEMY_DATABASE_URI"]}
        client = create_app({**config, "CORS_ORIGINS": "https://a.example, https://b.example"}).test_client()
        origins = ["https://a.example", "https://b.example", SPA, "https://aXexample"]
        allowed = [
            client.get("/nowhere", headers={"Origin": origin}).headers.get("Access-Control-Allow-Origin")
            for origin in origins
        ]
        assert allowed == ["https://a.example", "https://b.example", None, None]

    @pytest.mark.parametrize(
        "listed",
        [
            *(
                "*.b.example",
                "b.example",
                "https://a.example/path",
                "*,x",
                "https://u@a.example",
                "https://a.example?x",
            ),
            *("https://*.example", "https://*", "https://a.*.example", "https://*a.b.example", "https://*.0.0.1"),
            *("http://[::x]", "http://127.1", "http://0x7f", "http://a.example:0", "http://a.example:65536"),
            *("null", "file://x", "javascript://x", "htps://a.example", "https://a..b", "https://a b", r"https://a\.b"),
        ],
    )
    def test_what_no_browser_sends_is_refused(self, listed):
        with pytest.raises(SystemExit, match="CORS_ORIGINS"):
            create_app({**CONFIG, "CORS_ORIGINS": listed})

    @pytest.mark.parametrize(
        "listed, admitted, refused",
        [
            ("http://[2001:db8::5]", "http://[2001:db8::5]", "http://d.evil.example:8080"),
            ("http://[2001:DB8:0::5]:80", "http://[2001:db8::5]", "http://[2001:db8::50]"),
            ("https://A.example:443", "https://a.example", "https://a.example:444"),
            ("http://a.example:443", "http://a.example:443", "http://a.example"),
            ("https://bücher.example", "https://xn--bcher-kva.example", "https://xn--bcher-kva.example.evil.example"),
            ("http://10.0.0.1:3000", "http://10.0.0.1:3000", "http://10a0.0.1:3000"),
            ("https://*.a.example", "https://b.a.example", "https://a.example"),
            ("https://*.a.example", "https://c.b.a.example", "https://evila.example"),
            ("https://*.a.example", "https://b-c.a.example", "https://evil.example/.a.example"),
            ("https://*.a.example:8443", "https://b.a.example:8443", "https://b.a.example"),
            ("capacitor://localhost", "capacitor://localhost", "capacitor://localhost.evil"),
            ("http://localhost", "http://localhost", "capacitor://localhost"),
            ("http://under_score.example", "http://under_score.example", "http://underascore.example"),
        ],
    )
    def test_is_compared_and_no_pattern(self, listed, admitted, refused):
        client = create_app({**CONFIG, "CORS_ORIGINS": listed}).test_client()
        answers = [client.get("/nowhere", headers={"Origin": origin}).headers for origin in (admitted, refused)]
        assert [answer.get("Access-Control-Allow-Origin") for answer in answers] == [admitted, None]

    def test_slash_at_the_end_is_none_of_it(self, app):
        client = create_app({**CONFIG, "CORS_ORIGINS": "https://a.example/"}).test_client()
        answer = client.get("/nowhere", headers={"Origin": "https://a.example"})
        assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"


class TestPreflight:
    def ask(
        self, client, origin, method="POST", headers="authorization, content-type, idempotency-key", path="/orders"
    ):
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": headers}
        return client.options(path, headers=asked)

    def test_allows_what_the_spa_sends(self, client):
        response = self.ask(client, SPA)
        assert (response.status_code, response.data) == (204, b"")
        assert response.headers["Access-Control-Allow-Origin"] == SPA
        assert words(response.headers["Access-Control-Allow-Headers"]) >= {
            "authorization",
            "content-type",
            "idempotency-key",
        }
        assert words(response.headers["Access-Control-Allow-Methods"]) >= {"get", "post", "patch", "delete"}

    @pytest.mark.parametrize(
        "path", ["/nowhere", "/tickets/ABC/check-in", "/orders/12%0A", "/events/x/", "/", "/docs/../x", "/%ff", "//x"]
    )
    def test_is_answered_for_any_path(self, client, path):
        response = self.ask(client, SPA, path=path)
        assert (response.status_code, response.headers["Access-Control-Allow-Origin"]) == (204, SPA)
        assert "post" in words(response.headers["Access-Control-Allow-Methods"])

    @pytest.mark.parametrize("name", ["traceparent", "tracestate", "baggage", "sentry-trace", "if-match"])
    def test_allows_headers_to_follow_a_call_by(self, client, name):
        assert words(self.ask(client, SPA, headers=name).headers["Access-Control-Allow-Headers"]) == {name}

    def test_allows_no_other_header(self, client):
        allowed = self.ask(client, SPA, headers="x-evil, content-type").headers["Access-Control-Allow-Headers"]
        assert "x-evil" not in words(allowed)

    def test_allows_no_other_origin(self, client):
        assert "Access-Control-Allow-Origin" not in self.ask(client, "http://evil.example").headers


class TestSecurity:
    @pytest.mark.parametrize(
        "call", ["GET /events", "GET /nowhere", "PUT /login", "GET /me", "OPTIONS /me", "POST /login"]
    )
    def test_headers_are_on_every_answer(self, client, call):
        method, path = call.split()
        headers = client.open(path, method=method).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["Referrer-Policy"] == "no-referrer"

    @pytest.mark.parametrize("path", ["/me", "/users", "/orders", "/nowhere", "/health"])
    def test_nobody_on_the_way_keeps_it(self, client, admin, path):
        assert client.get(path, headers=admin.headers).headers["Cache-Control"] == "no-store"

    def test_token_is_kept_by_nobody(self, buyer, client):
        answer = client.post("/login", json={"email": buyer.email, "password": "correct horse"})
        assert answer.headers["Cache-Control"] == "no-store"


class TestRequestID:
    @pytest.mark.parametrize("given", ["abc", "A-b_c.1", "x" * 64])
    def test_given_one_comes_back(self, client, given):
        assert client.get("/nowhere", headers={"X-Request-ID": given}).headers["X-Request-ID"] == given

    @pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a;b", '{"x"}', "\xff", "a\tb"])
    def test_odd_one_is_replaced(self, client, given):
        made = client.get("/health", headers={"X-Request-ID": given}).headers["X-Request-ID"]
        assert made != given
        assert made.isalnum()

    def test_each_request_has_its_own(self, client, context):
        assert len({client.get("/health").headers["X-Request-ID"] for _ in range(3)}) == 3


def paths(method):
    paths = {rule.rule for rule in application.url_map.iter_rules() if method in rule.methods}
    for placeholder, example in PLACEHOLDERS.items():
        paths = {path.replace(placeholder, example) for path in paths}
    return sorted(paths)


class TestHead:
    @pytest.mark.parametrize("path", paths("GET"))
    def test_is_get_without_the_body(self, client, admin, path):
        get, head = (client.open(path, method=method, headers=admin.headers) for method in ("GET", "HEAD"))
        assert (head.status_code, head.data) == (get.status_code, b"")
        assert head.headers.get("Content-Type") == get.headers.get("Content-Type")
        assert head.headers.get("ETag") == get.headers.get("ETag")


class TestOptions:
    def test_names_the_methods_of_every_path(self, client):
        for rule in application.url_map.iter_rules():
            path = rule.rule
            for placeholder, example in PLACEHOLDERS.items():
                path = path.replace(placeholder, example)
            response = client.options(path)
            assert (response.status_code, response.data, response.content_type) == (200, b"", None), path
            assert words(response.headers["Allow"]) == {method.lower() for method in rule.methods}, path


class TestHome:
    @pytest.mark.parametrize("prefix", ["", "/api"])
    def test_leads_to_the_documents_also_below_a_path(self, client, prefix):
        response = client.get("/", environ_overrides={"SCRIPT_NAME": prefix})
        assert (response.status_code, response.headers["Location"]) == (302, f"{prefix}/docs")
