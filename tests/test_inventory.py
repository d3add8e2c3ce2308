"""The recount of every place, ticket and payment, and the tidying up of what has lapsed."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from models import IdempotencyKey, Order, TicketType, User, db, now
from routes.selling.catalogue import create_category, create_event, create_ticket_type
from routes.selling.inventory import check_inventory
from routes.selling.orders import order_for
from routes.selling.placing import place
from routes.selling.refunds import refund
from routes.selling.settling import cancel, pay


def sell():
    """An order in each state, all of one event: each paid, held or gave back two places of a type of its own."""
    buyer = User.sign_up(name="Somebody", email="somebody@example.com", password="correct horse")
    start = datetime.now(UTC) + timedelta(days=7)
    fields = {
        "description": "Music",
        "venue": "Hall",
        "status": "published",
        "category_id": create_category("Music").id,
        "starts_at": start,
        "ends_at": start + timedelta(hours=3),
    }
    event, _ = (create_event({"name": name, **fields}) for name in ("Concert", "Another"))
    for state in ("paid", "pending", "refunded", "canceled"):
        kind = create_ticket_type(event.id, {"name": state, "price": 2500, "quantity": 10})
        order = order_for(buyer, place(buyer.id, [(kind.id, 2)])["code"])
        if state in ("paid", "refunded"):
            pay(order, method="cash", amount=5000)
        if state == "refunded":
            refund(order)
        if state == "canceled":
            cancel(order)
    db.session.commit()


@pytest.fixture
def sold_and_held(app):
    with app.app_context():
        sell()


@pytest.fixture
def run(app):
    def command(*arguments):
        with app.app_context():
            return app.test_cli_runner().invoke(args=arguments)

    return command


@pytest.fixture
def by_hand(app):
    """Change the database behind the application's back."""

    def execute(statement):
        with app.app_context():
            assert db.session.execute(text(statement)).rowcount
            db.session.commit()

    return execute


A_TICKET = "(SELECT max(id) FROM tickets WHERE status = '{}')"

CORRUPTIONS = [
    (
        "UPDATE ticket_types SET sold = sold + 1 WHERE name = 'paid'",
        r"Ticket type \d+ of 10 places has 3 sold and 0 held, its orders have 2 paid and 0 pending",
    ),
    (
        "UPDATE ticket_types SET sold = sold - 1 WHERE name = 'paid'",
        r"Ticket type \d+ of 10 places has 1 sold and 0 held, its orders have 2 paid and 0 pending",
    ),
    (
        "UPDATE ticket_types SET held = held + 1 WHERE name = 'pending'",
        r"Ticket type \d+ of 10 places has 0 sold and 3 held, its orders have 0 paid and 2 pending",
    ),
    (
        "UPDATE ticket_types SET held = held - 1 WHERE name = 'pending'",
        r"Ticket type \d+ of 10 places has 0 sold and 1 held, its orders have 0 paid and 2 pending",
    ),
    (
        "UPDATE ticket_types SET sold = 1 WHERE name = 'canceled'",
        r"Ticket type \d+ of 10 places has 1 sold and 0 held, its orders have 0 paid and 0 pending",
    ),
    (
        "UPDATE orders SET total = total + 1 WHERE status = 'canceled'",
        r"Order \w+ has a total of 5001, its items come to 5000",
    ),
    (
        "UPDATE order_items SET unit_price = 1 WHERE name = 'canceled'",
        r"Order \w+ has a total of 5000, its items come to 2",
    ),
    (
        "UPDATE ticket_types SET waited = 2, waited_least = 1",
        r"Ticket type \d+ has 2 waited for, 1 by the smallest group, its waiting list comes to 0 and 0",
    ),
    (
        "DELETE FROM order_items WHERE name = 'canceled'",
        r"Order \w+ has a total of 5000, its items come to None",
    ),
    (
        "DELETE FROM payments WHERE status = 'confirmed'",
        r"Order \w+ is paid with a total of 5000, its confirmed payments are 0 and come to 0",
    ),
    (
        "UPDATE payments SET status = 'refund_due' WHERE status = 'confirmed'",
        r"Order \w+ is paid with a total of 5000, its confirmed payments are 0 and come to 0",
    ),
    (
        "UPDATE payments SET amount = 4999 WHERE status = 'confirmed'",
        r"Order \w+ is paid with a total of 5000, its confirmed payments are 1 and come to 4999",
    ),
    (
        "UPDATE payments SET status = 'confirmed' WHERE status = 'refunded'",
        r"Payment \d+ of 5000 is confirmed, 5000 of it were given back, its refunds come to 5000",
    ),
    (
        "UPDATE payments SET refunded = 1 WHERE status = 'confirmed'",
        r"Payment \d+ of 5000 is confirmed, 1 of it were given back, its refunds come to 0",
    ),
    (
        "UPDATE refunds SET status = 'failed'",
        r"Payment \d+ of 5000 is refunded, 5000 of it were given back, its refunds come to 0",
    ),
    (
        "DELETE FROM tickets WHERE status = 'valid'",
        r"Order \w+ is paid for 2 places of ticket type \d+, its tickets for them are 0",
    ),
    (
        f"UPDATE tickets SET status = 'void' WHERE id = {A_TICKET.format('valid')}",
        r"Ticket type \d+ of 10 places has 2 sold and 0 held, its orders have 1 paid and 0 pending",
    ),
    (
        "INSERT INTO tickets (code, order_id, event_id, user_id, ticket_type_id, status) SELECT 'another', order_id,"
        f" event_id, user_id, ticket_type_id, status FROM tickets WHERE id = {A_TICKET.format('valid')}",
        r"Order \w+ is paid for 2 places of ticket type \d+, its tickets for them are 3",
    ),
    (
        f"UPDATE tickets SET status = 'valid' WHERE id = {A_TICKET.format('void')}",
        r"Ticket \w+ is valid, its order \w+ is refunded",
    ),
    (
        f"UPDATE tickets SET status = 'used', checked_in_at = CURRENT_TIMESTAMP WHERE id = {A_TICKET.format('void')}",
        r"Ticket \w+ is used, its order \w+ is refunded",
    ),
    (
        "UPDATE tickets SET event_id = (SELECT id FROM events WHERE name = 'Another') WHERE status = 'valid'",
        r"Ticket \w+ is of event \d+ and ticket type \d+, its order \w+ is not",
    ),
    (
        "UPDATE tickets SET ticket_type_id = (SELECT id FROM ticket_types WHERE name = 'canceled')"
        " WHERE status = 'valid'",
        r"Ticket \w+ is of event \d+ and ticket type \d+, its order \w+ is not",
    ),
    (
        "UPDATE payments SET reference = 'R'",
        r"Payment \d+ by cash has the reference R, it is compared by None",
    ),
    (
        "UPDATE payments SET reference_key = 'r'",
        r"Payment \d+ by cash has the reference None, it is compared by r",
    ),
]


@pytest.mark.usefixtures("sold_and_held")
class TestCheckInventory:
    def test_what_was_sold_over_http_agrees(self, context):
        assert check_inventory() == []

    def test_lapsed_hold_counts_as_held_until_it_is_let_go(self, by_hand, context):
        by_hand("UPDATE orders SET expires_at = created_at WHERE status = 'pending'")
        assert check_inventory() == []

    @pytest.mark.parametrize(("corruption", "sentence"), CORRUPTIONS)
    def test_corrupt_figure_is_found(self, by_hand, context, corruption, sentence):
        by_hand(corruption)
        found = check_inventory()
        assert [difference for difference in found if re.fullmatch(sentence, difference)], found

    def test_order_is_named(self, by_hand, context):
        by_hand("UPDATE orders SET total = total + 1 WHERE status = 'pending'")
        code = db.session.scalar(db.select(Order.code).where(Order.state == "pending"))
        assert check_inventory() == [f"Order {code} has a total of 5001, its items come to 5000"]

    def test_used_ticket_counts_as_one_of_its_order(self, by_hand, context):
        by_hand("UPDATE tickets SET status = 'used', checked_in_at = CURRENT_TIMESTAMP WHERE status = 'valid'")
        assert check_inventory() == []

    def test_command_says_what_it_counted(self, run):
        result = run("check-inventory")
        assert result.exit_code == 0
        assert result.output == "Counted 4 ticket types, 4 orders and 4 tickets: all agree.\n"

    def test_command_prints_each_difference_and_exits_with_1(self, by_hand, run):
        by_hand("UPDATE ticket_types SET sold = 1 WHERE name = 'canceled'")
        by_hand("UPDATE orders SET total = 1 WHERE status = 'pending'")
        result = run("check-inventory")
        assert result.exit_code == 1
        assert re.match(r"Ticket type .*\nOrder .*\nError: 2 differences\n", result.output)


class TestWithoutConstraints:
    """What the database itself refuses is counted all the same: constraints can be lost when a database moves."""

    @pytest.fixture
    def unguarded(self, migrated):
        """A database that has lost its constraint on places and its index on confirmed payments."""
        with migrated.app_context():
            sell()
            db.session.execute(text("DROP INDEX uq_payments_confirmed"))
            if db.engine.dialect.name == "postgresql":
                db.session.execute(text("ALTER TABLE ticket_types DROP CONSTRAINT ck_ticket_types_places"))
            else:
                db.session.execute(text("PRAGMA ignore_check_constraints = ON"))
            db.session.commit()
            yield db.session

    def corrupt(self, session, statement):
        session.execute(text(statement))
        session.commit()
        return check_inventory()

    def test_more_sold_than_there_is(self, unguarded):
        found = self.corrupt(unguarded, "UPDATE ticket_types SET quantity = 1 WHERE name = 'paid'")
        assert re.fullmatch(r"Ticket type \d+ of 1 places has 2 sold and 0 held, its orders have 2 paid .*", *found)

    def test_second_payment_with_one_reference(self, unguarded):
        unguarded.execute(text("DROP INDEX uq_payments_method"))
        found = self.corrupt(
            unguarded, "UPDATE payments SET reference = 'R', reference_key = 'r', status = 'refund_due'"
        )
        assert "2 payments by cash that are compared by r were not given back" in found

    def test_second_confirmed_payment(self, unguarded):
        found = self.corrupt(
            unguarded,
            "INSERT INTO payments (order_id, method, reference, reference_key, amount, status)"
            " SELECT order_id, 'card', 'again', 'again', 0, status FROM payments WHERE status = 'confirmed'",
        )
        assert re.fullmatch(r"Order \w+ is paid with a total of 5000, .* payments are 2 and come to 5000", *found)


class TestExpireOrders:
    def stored(self, app, order):
        with app.app_context():
            return db.session.scalar(db.select(Order.state).where(Order.code == order["code"]))

    def test_lapsed_order_is_marked_and_counted(self, app, run, lapse, pending_order):
        lapse(pending_order)
        result = run("expire-orders")
        assert (result.exit_code, self.stored(app, pending_order)) == (0, "expired")
        assert result.output == "Expired orders: 1. Forgotten: 0 idempotency keys, 0 log-ins.\n"

    def test_places_of_lapsed_order_are_no_longer_held(self, context, run, lapse, pending_order):
        lapse(pending_order)
        run("expire-orders")
        assert db.session.scalar(db.select(TicketType.held)) == 0
        assert check_inventory() == []

    def test_orders_of_several_events_are_marked(self, run, buyer, lapse, place, make_ticket_type):
        for _ in range(3):
            lapse(place(buyer, make_ticket_type()).get_json())
        assert run("expire-orders").output.startswith("Expired orders: 3.")

    def test_pending_order_stays(self, app, run, pending_order):
        run("expire-orders")
        assert self.stored(app, pending_order) == "pending"

    def test_paid_order_stays(self, app, run, lapse, paid_order):
        lapse(paid_order)
        run("expire-orders")
        assert self.stored(app, paid_order) == "paid"

    @pytest.mark.parametrize(("hours", "left"), [(23, 1), (25, 0)])
    def test_idempotency_key_is_kept_for_a_day(self, context, run, buyer, hours, left):
        row = {"user_id": buyer.id, "key": "k", "path": "/orders", "fingerprint": "f", "created_at": now(-3600 * hours)}
        db.session.execute(db.insert(IdempotencyKey).values(row))
        db.session.commit()
        run("expire-orders")
        assert db.session.scalar(db.select(db.func.count()).select_from(IdempotencyKey)) == left

    def test_log_out_is_remembered_while_its_tokens_last(self, client, run, buyer):
        client.post("/logout", headers=buyer.headers)
        assert run("expire-orders").output.endswith(" 0 log-ins.\n")

    def test_log_out_is_forgotten_after_its_tokens(self, client, by_hand, run, buyer):
        client.post("/logout", headers=buyer.headers)
        by_hand("UPDATE logins SET expires_at = '2020-01-01 00:00:00.000000'")
        assert run("expire-orders").output.endswith(" 1 log-ins.\n")
