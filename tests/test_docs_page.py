"""In a real browser: the page of the documents, and a page on another origin that uses the API as a front end would."""

import json
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace

import pytest
from flask_migrate import upgrade
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from app import create_app
from models import User, db
from routes.selling.catalogue import create_category, create_event, create_ticket_type

from .conftest import CONFIG, NEEDS_BROWSER, PASSWORD, dispose, servers

pytestmark = [NEEDS_BROWSER, pytest.mark.slow]
EMAIL = "ada@example.com"


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!DOCTYPE html><title>A front end</title>")

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def front_end():
    """A page of its own: its `origin`, and `another` that the API is not told of."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    Thread(target=server.serve_forever).start()
    yield SimpleNamespace(
        origin=f"http://localhost:{server.server_port}", another=f"http://127.0.0.1:{server.server_port}"
    )
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def api(make_database, front_end):
    """The address of the production server, with an account and two events, both with tickets on sale."""
    url = make_database()
    app = create_app({**CONFIG, "SQLALCHEMY_DATABASE_URI": url})
    start = datetime.now(UTC).replace(microsecond=0) + timedelta(days=7)
    with app.app_context():
        upgrade()
        User.sign_up(name="Ada", email=EMAIL, password=PASSWORD)
        category = create_category("Concerts")
        for name in ("First", "Second"):
            usual = {"description": "Music", "venue": "Hall", "category_id": category.id, "status": "published"}
            event = create_event({"name": name, "starts_at": start, "ends_at": start + timedelta(hours=3), **usual})
            db.session.flush()
            create_ticket_type(event.id, {"name": "Regular", "price": 2500, "quantity": 10})
        db.session.commit()
        dispose()
    with servers() as start_server:
        limited = {"RATELIMIT_ENABLED": "true", "WEB_CONCURRENCY": "1"}
        yield start_server(url, CORS_ORIGINS=front_end.origin, **limited).address


class TestDocsPage:
    @pytest.fixture
    def page(self, browser, api):
        browser.get_log("performance"), browser.get_log("browser")
        return DocsPage(browser, f"{api}/docs")

    def test_log_in_then_get_me_also_when_the_page_is_loaded_anew(self, page):
        login = page.try_out("logIn", {"email": EMAIL, "password": PASSWORD})
        page.authorize(login["access_token"])
        assert page.try_out("getMe")["email"] == EMAIL
        page.load()
        assert page.try_out("getMe")["email"] == EMAIL

    def test_nothing_is_loaded_from_elsewhere(self, page, api):
        page.find(".opblock")
        messages = [json.loads(entry["message"])["message"] for entry in page.browser.get_log("performance")]
        sent = [it["params"]["request"]["url"] for it in messages if it["method"] == "Network.requestWillBeSent"]
        assert f"{api}/openapi.json" in sent
        assert [url for url in sent if not url.startswith((f"{api}/", "data:"))] == []

    def test_policy_of_the_page_is_kept(self, page):
        page.try_out("checkHealth")
        assert page.browser.get_log("browser") == []


class DocsPage:
    """Swagger UI by its class names."""

    def __init__(self, browser, address):
        self.browser, self.address = browser, address
        self.load()

    def load(self):
        self.browser.get(self.address)

    def find(self, selector):
        return WebDriverWait(self.browser, 30).until(lambda browser: browser.find_element(By.CSS_SELECTOR, selector))

    def click(self, selector):
        self.browser.execute_script("arguments[0].click()", self.find(selector))

    def put_in(self, selector, text):
        """As if it were pasted: typed letter by letter it takes seconds."""
        self.find(selector).send_keys(Keys.CONTROL + "a")
        self.browser.execute_cdp_cmd("Input.insertText", {"text": text})

    def try_out(self, operation, body=None):
        """Send a call by the page's own form, and return the answer that it shows."""
        block = f"[id^=operations-][id$=-{operation}]"
        self.click(f"{block} .opblock-summary-control")
        self.click(f"{block} .try-out__btn")
        if body:
            self.put_in(f"{block} textarea.body-param__text", json.dumps(body))
        self.click(f"{block} .execute")
        shown = f"{block} .live-responses-table .response-col_description .highlight-code code"
        return json.loads(self.find(shown).get_property("textContent"))

    def authorize(self, token):
        self.click(".auth-wrapper .authorize")
        self.put_in(".auth-container #auth-bearer-value", token)
        self.click(".auth-container .authorize")
        self.click(".auth-container .btn-done")


CALL = """
const [api, done] = [arguments[0], arguments[arguments.length - 1]];
const call = async (method, path, body, token) => {
  const headers = {};
  if (body) headers["Content-Type"] = "application/json";
  if (token) headers["Authorization"] = `Bearer ${token}`;
  const response = await fetch(new URL(path, api), {method, headers, body: body && JSON.stringify(body)});
  const text = await response.text();
  return {status: response.status, json: text && JSON.parse(text), header: name => response.headers.get(name)};
};
const grace = {name: "Grace", email: "grace@example.com", password: "correct horse"};
(async () => { %s })().then(done, error => done(`${error.name}: ${error.message}`));
"""


class TestFrontEnd:
    @pytest.fixture
    def run(self, browser, api, front_end):
        def script(text, origin=front_end.origin):
            browser.get(origin)
            return browser.execute_async_script(CALL % text, api)

        return script

    def test_sign_up_log_in_and_buy(self, run):
        assert (
            run("""
            await call("POST", "/sign-up", grace);
            const token = (await call("POST", "/login", grace)).json.access_token;
            const [event] = (await call("GET", "/events")).json;
            const [type] = (await call("GET", `/events/${event.id}`)).json.ticket_types;
            const items = [{ticket_type_id: type.id, quantity: 2}];
            const order = await call("POST", "/orders", {items}, token);
            return (await call("GET", order.header("Location"), null, token)).json.status;
        """)
            == "pending"
        )

    def test_follow_the_link_to_the_last_page(self, run):
        assert run("""
            const names = [];
            let path = "/events?limit=1";
            while (path) {
                const page = await call("GET", path);
                names.push(page.json[0].name);
                path = page.header("Link") && page.header("Link").match(/<(.*)>; rel="next"/)[1];
            }
            return names;
        """) == ["First", "Second"]

    def test_missing_token_can_be_read(self, run):
        assert run("""
            const answer = await call("GET", "/me");
            return [answer.status, answer.json.message];
        """) == [401, "Missing token"]

    def test_too_many_log_ins_say_when_to_try_again(self, run):
        status, seconds = run("""
            const guess = {email: "ada@example.com", password: "a guess"};
            let answer;
            for (let n = 0; n < 11; n++) answer = await call("POST", "/login", guess);
            return [answer.status, Number(answer.header("Retry-After"))];
        """)
        assert status == 429
        assert 0 < seconds <= 60

    @pytest.mark.parametrize("request_", ['"GET", "/events"', '"POST", "/login", grace', '"GET", "/me", null, "token"'])
    def test_another_origin_gets_nothing(self, request_, run, front_end):
        answer = run(f"return await call({request_});", front_end.another)
        assert answer == "TypeError: Failed to fetch"
