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
SIZES = {
    "desktop": {"width": 1280, "height": 1000, "deviceScaleFactor": 1, "mobile": False},
    "phone": {"width": 375, "height": 812, "deviceScaleFactor": 1, "mobile": True},
}


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
    def page(self, browser, api, request):
        browser.get_log("performance"), browser.get_log("browser")
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", SIZES[getattr(request, "param", "desktop")])
        page = DocsPage(browser, f"{api}/docs")
        yield page
        browser.execute_script("localStorage.clear()")
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    @pytest.mark.parametrize("page", SIZES, indirect=True)
    def test_who_logs_in_is_logged_in_also_when_the_page_is_loaded_anew(self, page):
        page.try_out("logIn", {"email": EMAIL, "password": PASSWORD})
        assert page.try_out("getMe")["email"] == EMAIL
        page.load()
        assert page.try_out("getMe")["email"] == EMAIL

    def test_refreshed_tokens_take_the_place_of_the_others(self, page):
        page.try_out("logIn", {"email": EMAIL, "password": PASSWORD})
        page.try_out("refreshTokens")
        page.load()
        assert "access_token" in page.try_out("refreshTokens")

    def test_who_logs_out_is_logged_out(self, page):
        page.try_out("logIn", {"email": EMAIL, "password": PASSWORD})
        page.send("logOut")
        page.find(".auth-wrapper .authorize.unlocked")
        assert page.try_out("getMe")["message"] == "Missing token"

    def test_it_begins_with_the_story(self, page):
        shown = page.shown()
        calls = [shown.index(f"operations-users-{name}") for name in ("signUp", "logIn")]
        calls += [shown.index(it) for it in ("operations-orders-placeOrder", "operations-orders-payOrder")]
        calls += [shown.index("operations-tickets-checkIn"), shown.index("operations-health-checkHealth")]
        assert calls[:2] == [0, 1]
        assert calls == sorted(calls)
        assert shown[-2:] == ["operations-health-checkHealth", "operations-health-checkLiveness"]

    def test_filter_finds_a_tag(self, page):
        page.put_in(".operation-filter-input", "tickets")
        WebDriverWait(page.browser, 30).until(lambda browser: page.shown()[0] == "operations-tickets-listTickets")

    @pytest.mark.parametrize("page", SIZES, indirect=True)
    def test_an_operation_is_as_wide_as_the_page_and_no_longer_than_few_screens(self, page):
        block = page.open("placeOrder")
        page.find(f"{block} .response[data-code='503']")
        wide, high = page.browser.execute_script(
            "const found = document.querySelector(arguments[0]);"
            "return [document.documentElement.scrollWidth - innerWidth, found.offsetHeight / innerHeight]",
            block,
        )
        assert wide <= 0
        assert high < 4

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

    def shown(self):
        """The ids of the operations, in the order in which they stand."""
        self.find(".opblock")
        return self.browser.execute_script("return [...document.querySelectorAll('.opblock')].map(it => it.id)")

    def open(self, operation):
        block = f"[id^=operations-][id$=-{operation}]"
        self.click(f"{block} .opblock-summary-control")
        return block

    def send(self, operation, body=None):
        """Send a call by the page's own form, and return where its answer is shown."""
        block = self.open(operation)
        self.click(f"{block} .try-out__btn")
        if body:
            self.put_in(f"{block} textarea.body-param__text", json.dumps(body))
        self.click(f"{block} .execute")
        return f"{block} .live-responses-table"

    def try_out(self, operation, body=None):
        """The answer to a call, as the page shows it."""
        shown = f"{self.send(operation, body)} .response-col_description .highlight-code code"
        return json.loads(self.find(shown).get_property("textContent"))


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
