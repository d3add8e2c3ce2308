"""The page of a ticket, as text and in a real browser."""

import base64
import html
import re
from datetime import UTC, datetime
from hashlib import sha256

import pytest
from flask_migrate import upgrade
from selenium.webdriver.common.by import By

from app import create_app
from models import Ticket, User, db
from routes.selling.catalogue import create_category, create_event, create_ticket_type
from routes.selling.placing import place as place_order

from .conftest import CONFIG, NEEDS_BROWSER, NEEDS_SCANNER, PASSWORD, dispose, scan, servers

NAMES = {"name": "Ночь 音楽 <b>&amp;", "venue": "قاعة الموسيقى"}
WINTER, SUMMER = datetime(2090, 1, 15, 18, 30, tzinfo=UTC), datetime(2090, 7, 15, 18, 30, tzinfo=UTC)


@pytest.fixture
def code(client, buyer, make_event, make_ticket_type, place):
    """The code of a ticket for an event with a name and a venue in several scripts."""
    times = {"starts_at": WINTER, "ends_at": WINTER.replace(hour=21)}
    ticket_type = make_ticket_type(make_event(time_zone="Europe/Berlin", **NAMES, **times), price=0)
    return place(buyer, ticket_type).get_json()["tickets"][0]["code"]


@pytest.fixture
def page(client, code):
    return lambda: client.get(f"/tickets/{code}/page").get_data(as_text=True)


class TestPageGet:
    def test_is_html_that_nobody_keeps(self, client, code):
        response = client.get(f"/tickets/{code}/page")
        assert (response.status_code, response.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert response.headers["Cache-Control"] == "no-store"

    def test_says_what_it_is_for_in_every_script(self, page, code):
        shown = page()
        said = [*NAMES.values(), "Regular", "Somebody", code]
        assert [text for text in said if html.escape(text) not in shown] == []
        assert "<b>" not in shown

    def test_is_at_the_events_local_time(self, page):
        assert "Sunday, 15 January 2090, 19:30 to 22:30 (Europe/Berlin)" in page()

    def test_follows_the_summer_time(self, page, client, admin, code):
        event = client.get(f"/tickets/{code}", headers=admin.headers).get_json()["event"]["id"]
        times = {"starts_at": f"{SUMMER:%Y-%m-%dT%H:%M:%SZ}", "ends_at": f"{SUMMER:%Y-%m-%dT21:00:00Z}"}
        assert client.patch(f"/events/{event}", json=times, headers=admin.headers).status_code == 200
        assert "Saturday, 15 July 2090, 20:30 to 23:00 (Europe/Berlin)" in page()

    def test_shows_the_name_of_who_comes(self, page, client, buyer, code):
        client.patch(f"/tickets/{code}", json={"attendee_name": "王小明"}, headers=buyer.headers)
        assert "王小明" in page()

    def test_its_policy_lets_in_its_own_style_alone(self, client, code):
        response = client.get(f"/tickets/{code}/page")
        style = re.search("<style>(.*)</style>", response.get_data(as_text=True), re.DOTALL)[1]
        digest = base64.b64encode(sha256(style.encode()).digest()).decode()
        first, second, *_ = response.headers["Content-Security-Policy"].split("; ")
        assert (first, second) == ("default-src 'none'", f"style-src 'sha256-{digest}'")

    def test_has_no_script_and_loads_nothing(self, page):
        assert re.findall(r"<script|<link|<img|\bon\w+=|\bstyle=|(?:href|src)=|url\(|@import", page()) == []

    def test_good_ticket_has_its_qr_code_and_no_notice(self, page):
        assert ("<svg" in page(), 'class="notice"' in page()) == (True, False)

    def test_void_one_says_so_and_has_no_qr_code(self, page, client, admin, code):
        order = client.get(f"/tickets/{code}", headers=admin.headers).get_json()["order"]
        assert client.post(f"/orders/{order}/refund", headers=admin.headers).status_code == 200
        assert ("This ticket is void" in page(), "<svg" in page()) == (True, False)

    def test_used_one_says_so(self, page, check_in, code):
        check_in(code)
        assert "This ticket has been used" in page()

    def test_canceled_event_is_named(self, page, client, admin, cancel_event, code):
        cancel_event(client.get(f"/tickets/{code}", headers=admin.headers).get_json()["event"]["id"])
        assert "The event is canceled" in page()

    def test_takes_one_statement(self, statements, page):
        assert len(statements(page)) == len(["the ticket"])


@pytest.fixture(scope="module")
def address(make_database):
    """The address of a ticket's page on the production server, and the ticket's code."""
    app = create_app({**CONFIG, "SQLALCHEMY_DATABASE_URI": make_database()})
    with app.app_context():
        upgrade()
        user = User.sign_up(name="王小明 محمد", email="ann@example.com", password=PASSWORD)
        fields = {"description": "Music", "status": "published", "category_id": create_category("Concerts").id}
        event = create_event({"starts_at": WINTER, "ends_at": WINTER.replace(hour=21), **NAMES, **fields})
        ticket_type = create_ticket_type(event.id, {"name": "Regular", "price": 0, "quantity": 10})
        place_order(user.id, [(ticket_type.id, 1)])
        db.session.commit()
        code = db.session.scalars(db.select(Ticket.code)).one()
        dispose()
    with servers() as start:
        yield f"{start(app.config['SQLALCHEMY_DATABASE_URI']).address}/tickets/{code}/page", code


@pytest.mark.slow
@NEEDS_BROWSER
class TestBrowser:
    @NEEDS_SCANNER
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("media", ["screen", "print"])
    def test_scanner_reads_it(self, browser, address, tmp_path, scheme, media):
        url, code = address
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
        browser.get(url)
        browser.find_element(By.TAG_NAME, "svg").screenshot(str(tmp_path / "page.png"))
        assert scan(tmp_path / "page.png") == code

    def test_its_style_holds_and_the_policy_is_kept(self, browser, address):
        browser.get_log("browser")
        browser.get(address[0])
        assert browser.find_element(By.TAG_NAME, "main").value_of_css_property("max-width") == "416px"
        assert browser.get_log("browser") == []
