"""In a real browser: the page of the fake on which a buyer pays, with Stripe's adapter behind it."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from models import Order, db

from .conftest import NEEDS_BROWSER, servers
from .fakes.stripe import DECLINED, FakeStripe
from .house import house_on
from .servers import free_port
from .test_stripe import connect, request

pytestmark = [NEEDS_BROWSER, pytest.mark.slow]


class PaymentPage:
    def __init__(self, driver, started):
        self.driver, self.reference = driver, started.reference
        driver.get(started.url)

    def press(self, action):
        self.driver.find_element(By.CSS_SELECTOR, f"button[value={action}]").click()

    def type_card(self, number):
        field = self.driver.find_element(By.NAME, "card")
        field.clear()
        field.send_keys(number)

    def leads_to(self, address):
        WebDriverWait(self.driver, 30).until(lambda driver: driver.current_url == address)

    def says(self, id, text):
        WebDriverWait(self.driver, 30).until(lambda driver: driver.find_element(By.ID, id).text == text)


@pytest.fixture
def fake():
    with FakeStripe() as fake:
        yield fake


@pytest.fixture
def shop(fake):
    return connect(fake)


@pytest.fixture
def back(fake):
    """Where the buyer comes back, paid or not."""
    return {"return_url": f"{fake.address}/paid", "cancel_url": f"{fake.address}/order"}


@pytest.fixture
def page(browser, shop, back):
    return PaymentPage(browser, shop.start(request(**back)))


def test_pay(page, shop, back):
    page.press("pay")
    page.leads_to(back["return_url"])
    assert shop.look_up(page.reference).state == "paid"


def test_declined_card_then_another(page, shop, fake, back):
    page.type_card(DECLINED)
    page.press("pay")
    page.says("trouble", "Your card was declined.")
    assert shop.look_up(page.reference).state == "open"
    page.type_card("4242 4242 4242 4242")
    page.press("pay")
    page.leads_to(back["return_url"])
    assert len(fake.all("charge")) == 1


def test_decline(page, shop):
    page.press("decline")
    page.says("trouble", "Your card was declined.")
    assert shop.look_up(page.reference).state == "open"


def test_cancel(page, shop, back):
    page.press("cancel")
    page.leads_to(back["cancel_url"])
    assert shop.look_up(page.reference).state == "open"


def test_page_that_was_closed_meanwhile(page, shop, fake):
    shop.close(page.reference)
    page.press("pay")
    page.says("status", "expired")
    assert fake.all("charge") == []


SHOP = """<!DOCTYPE html><meta charset=utf-8><link rel=icon href=data:,><title>Shop</title><p id=said></p><script>
const api = "%s", say = text => { document.getElementById("said").textContent = text }
async function call(path, body, token = localStorage.token) {
  const headers = {"Content-Type": "application/json"}
  if (token) headers.Authorization = "Bearer " + token
  const answer = await fetch(api + path, {method: "POST", headers, body: JSON.stringify(body)})
  return answer.json()
}
async function buy(type) {
  const account = {email: "ben@example.com", password: "battery staple"}
  await call("/sign-up", {name: "Ben", ...account}, "")
  localStorage.token = (await call("/login", account, "")).access_token
  const order = await call("/orders", {items: [{ticket_type_id: type, quantity: 1}]})
  location.href = (await call(`/orders/${order.code}/checkout`, {})).url
}
async function back(code) {
  const order = await call(`/orders/${code}/checkout/settle`, {})
  say(order.status)
  if (order.tickets.length) location.href = `${api}/tickets/${order.tickets[0].code}/page`
}
const [, first, second] = location.pathname.split("/")
if (first === "buy") buy(Number(second))
if (first === "orders") back(second)
</script>"""


class ShopPage(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write((SHOP % self.server.api).encode())

    def log_message(self, *args):
        pass


def test_buyer_signs_up_orders_pays_comes_back_and_sees_the_ticket(browser, make_database):
    """A single-page app on an origin of its own, in a browser, from the first click to the ticket's QR code."""
    url, port = make_database(), free_port()
    front = ThreadingHTTPServer(("127.0.0.1", 0), ShopPage)
    front.api, address = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{front.server_port}"
    serving = Thread(target=front.serve_forever)
    serving.start()
    with FakeStripe(webhook=f"{front.api}/webhooks/stripe") as fake, servers() as start, house_on(url) as house:
        settings = {"STRIPE_SECRET_KEY": "sk_test_shop", "STRIPE_WEBHOOK_SECRET": fake.secret, "PORT": str(port)}
        start(url, STRIPE_API_BASE=fake.address, SHOP_URL=address, CORS_ORIGINS=address, **settings)
        browser.get(f"{address}/buy/{house.ticket_type(10)}")
        wait = WebDriverWait(browser, 30)
        wait.until(lambda driver: driver.current_url.startswith(fake.address))
        browser.find_element(By.CSS_SELECTOR, "button[value=pay]").click()
        wait.until(lambda driver: "/tickets/" in driver.current_url)
        wait.until(lambda driver: driver.find_elements(By.TAG_NAME, "svg") or driver.find_elements(By.TAG_NAME, "img"))
        assert "Ben" in browser.find_element(By.TAG_NAME, "body").text
        [(state,)] = house.rows(db.select(Order.state))
        assert state == "paid"
        house.agrees()
    front.shutdown()
    serving.join()
    front.server_close()
