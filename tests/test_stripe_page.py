"""In a real browser: the page of the fake on which a buyer pays, with Stripe's adapter behind it."""

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from .conftest import NEEDS_BROWSER
from .fakes.stripe import DECLINED, FakeStripe
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
