"""`flask demo` makes a season that keeps every rule, on an empty database only."""

import re
from collections import defaultdict
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, inspect, select, text

from app import create_app
from models import (
    ORDER_STATUSES,
    Appointment,
    Audit,
    Category,
    Event,
    Mail,
    Order,
    OrderLine,
    Payment,
    Pool,
    PromoCode,
    Ticket,
    TicketType,
    User,
    caseless,
    db,
)
from routes.selling.inventory import check_inventory

from .conftest import CONFIG, bearer, dispose

PASSWORD = "correct horse"


def fill(app, *arguments):
    with app.app_context():
        return app.test_cli_runner().invoke(args=["demo", *arguments])


def count(model, *conditions):
    return db.session.scalar(select(func.count()).select_from(model).where(*conditions))


@pytest.fixture(scope="module")
def season(make_database):
    """An application on a season as it is unless told otherwise, for tests that only read; `output` is what it said."""
    app = create_app({**CONFIG, "SQLALCHEMY_DATABASE_URI": make_database()})
    with app.app_context():
        db.create_all()
    app.output = fill(app, "--password", PASSWORD).output
    yield app
    with app.app_context():
        dispose()


@pytest.fixture
def inside(season):
    with season.app_context():
        yield season


class TestSeason:
    def test_places_tickets_and_payments_agree(self, inside):
        assert check_inventory() == []

    def test_some_dozens_of_events_are_ahead(self, inside):
        assert count(Event, Event.status == "published", Event.starts_at > func.now()) >= 24

    def test_some_events_are_just_past(self, inside):
        assert count(Event, Event.status == "published", Event.ends_at < func.now()) >= 3

    @pytest.mark.parametrize("status", ["draft", "canceled"])
    def test_one_event_is_draft_and_one_canceled(self, inside, status):
        assert count(Event, Event.status == status) == 1

    def test_every_category_has_events(self, inside):
        assert set(db.session.scalars(select(Category.id))) == set(db.session.scalars(select(Event.category_id)))

    def test_every_description_has_at_least_two_sentences(self, inside):
        assert all(len(re.findall(r"[.!?](?= |$)", told)) > 1 for told in db.session.scalars(select(Event.description)))

    def test_every_event_has_two_or_three_ticket_types(self, inside):
        types = select(func.count(TicketType.id)).group_by(TicketType.event_id)
        assert set(db.session.scalars(types)) == {2, 3}
        assert count(Event, ~Event.ticket_types.any()) == 0

    def test_the_soonest_event_is_sold_out(self, inside):
        soonest = select(Event.id).where(Event.starts_at > func.now()).order_by(Event.starts_at).limit(1)
        types = select(TicketType.quantity - TicketType.sold).where(TicketType.event_id == soonest.scalar_subquery())
        assert set(db.session.scalars(types)) == {0}

    @pytest.mark.parametrize(
        "kind", [TicketType.price == 0, TicketType.sales_start > func.now(), TicketType.sales_end < func.now()]
    )
    def test_some_are_free_not_yet_or_no_longer_on_sale(self, inside, kind):
        assert count(TicketType, kind)

    @pytest.mark.parametrize("status", ORDER_STATUSES)
    def test_orders_are_in_every_state(self, inside, status):
        assert count(Order, Order.has_status(status), Order.state == status)

    def test_nobody_is_mailed(self, inside):
        assert count(Mail) == 0

    def test_some_holds_have_lapsed(self, inside):
        assert count(Order, Order.has_lapsed())

    @pytest.mark.parametrize("method", ["cash", "bank_transfer", "mobile_money", "card"])
    def test_payments_are_made_by_every_method(self, inside, method):
        assert count(Payment, Payment.method == method)

    @pytest.mark.parametrize("status", ["confirmed", "refund_due", "refunded"])
    def test_payments_are_in_every_state(self, inside, status):
        assert count(Payment, Payment.status == status)

    @pytest.mark.parametrize("status", ["valid", "used", "void"])
    def test_tickets_are_in_every_state(self, inside, status):
        assert count(Ticket, Ticket.status == status)

    @pytest.mark.parametrize("kind", [PromoCode.percent > 0, PromoCode.amount > 0, PromoCode.unlocks])
    def test_there_are_promo_codes_of_each_kind_with_orders(self, inside, kind):
        assert count(PromoCode, kind, PromoCode.used > 0)
        assert count(PromoCode, kind, PromoCode.id.in_(select(Order.promo_code_id).where(Order.state == "paid")))

    def test_some_promo_codes_are_used_up(self, inside):
        assert count(PromoCode, PromoCode.used + PromoCode.counted == PromoCode.max_uses)

    def test_lines_with_a_promo_code_cost_what_it_says(self, inside):
        lines = select(OrderLine, PromoCode).select_from(Order).join(Order.items).join(Order.promo)
        lines = lines.where(OrderLine.uses_promo)
        lines = db.session.execute(lines).all()
        assert lines
        assert all(promo.covers(line.ticket_type_id) for line, promo in lines)
        assert all(line.unit_price == promo.price_of(line.full_price) for line, promo in lines)

    def test_an_order_with_a_promo_code_has_a_line_with_it(self, inside):
        with_code, uses = Order.promo_code_id.is_not(None), Order.items.any(OrderLine.uses_promo)
        assert count(Order, with_code) == count(Order, uses) == count(Order, with_code, uses)

    def test_hidden_ticket_types_are_sold_with_a_code_that_unlocks_them_alone(self, inside):
        hidden = select(OrderLine.uses_promo).join(TicketType, TicketType.id == OrderLine.ticket_type_id)
        assert set(db.session.scalars(hidden.where(TicketType.hidden))) == {True}
        unlocking = db.session.scalars(select(PromoCode).where(PromoCode.unlocks)).all()
        assert all(it.hidden for code in unlocking for it in code.applies_to)
        assert all(code.applies_to for code in unlocking)

    def test_adults_and_children_share_a_hall_that_is_smaller_than_their_places(self, inside):
        pools = db.session.scalars(select(Pool)).all()
        assert pools and all(len(pool.ticket_types) == 2 for pool in pools)
        assert all(sum(it.quantity for it in pool.members) > pool.quantity for pool in pools)
        assert any(pool.sold for pool in pools)

    def test_each_fourth_event_has_a_manager_and_a_helper_at_the_door(self, inside):
        appointed = select(Appointment.event_id, Appointment.role).order_by(Appointment.event_id, Appointment.role)
        roles = defaultdict(list)
        for event_id, role in db.session.execute(appointed):
            roles[event_id].append(role)
        assert len(roles) == 9 and all(both == ["door", "manager"] for both in roles.values())

    @pytest.mark.parametrize("role, status", [("manager", 200), ("door", 403)])
    def test_an_appointment_that_is_printed_is_good(self, season, role, status):
        event, email = re.search(rf"^Of event (\d+), (\S+) is {role}\.$", season.output, re.M).groups()
        client = season.test_client()
        token = client.post("/login", json={"email": email, "password": PASSWORD}).get_json()["access_token"]
        assert client.get(f"/events/{event}/promo-codes", headers=bearer(token)).status_code == status
        assert client.get(f"/events/{event}/attendees", headers=bearer(token)).status_code == 200

    def test_some_tickets_have_the_name_of_who_comes_that_can_be_searched_for(self, inside):
        tickets = db.session.scalars(select(Ticket).where(Ticket.attendee_name.is_not(None))).all()
        assert 0 < len(tickets) < count(Ticket)
        assert all(ticket.attendee_folded == caseless(ticket.attendee_name) for ticket in tickets)

    @pytest.mark.parametrize(
        "action", ["event.changed", "pool.created", "promo_code.created", "staff.appointed", "order.refunded"]
    )
    def test_the_audit_says_who_did_it(self, inside, action):
        entries = db.session.scalars(select(Audit).where(Audit.action == action, Audit.actor_id.is_not(None))).all()
        assert entries and all(entry.actor.role in ("admin", "staff") and entry.changes for entry in entries)

    def test_the_audit_has_no_names(self, inside):
        assert all("SPRING15" not in str(entry.changes) for entry in db.session.scalars(select(Audit)))

    def test_nobody_is_inside_before_the_event(self, inside):
        early = select(Ticket.id).join(Ticket.event).where(Ticket.status == "used", Event.starts_at > func.now())
        assert db.session.scalars(early).all() == []

    def test_nothing_was_ordered_while_not_on_sale(self, inside):
        sold = select(Order.id).join(OrderLine).join(TicketType, OrderLine.ticket_type_id == TicketType.id)
        sold = sold.join(Event, Event.id == Order.event_id)
        closed = (
            Order.created_at < TicketType.sales_start,
            Order.created_at > func.coalesce(TicketType.sales_end, Event.starts_at),
            Order.created_at > Event.canceled_at,
            Event.status == "draft",
        )
        assert db.session.scalars(sold.where(db.or_(*closed))).all() == []

    def test_newer_orders_have_higher_ids(self, inside):
        moments = db.session.scalars(select(Order.created_at).order_by(Order.id)).all()
        assert moments == sorted(moments)

    def test_each_buyers_orders_are_numbered_from_one(self, inside):
        numbers = select(func.min(Order.number), func.max(Order.number), func.count()).group_by(Order.user_id)
        assert all((first, last) == (1, many) for first, last, many in db.session.execute(numbers))

    def test_durations_are_those_of_the_events(self, inside):
        events = db.session.scalars(select(Event)).all()
        assert all(event.duration == (event.ends_at - event.starts_at).total_seconds() for event in events)

    def test_a_category_can_not_be_made_twice(self, inside):
        assert all(category.folded == category.name.casefold() for category in db.session.scalars(select(Category)))

    def test_every_account_has_a_stamp_of_its_own(self, inside):
        stamps = db.session.scalars(select(User.token_version)).all()
        assert len(set(stamps)) == len(stamps) and all(stamps)

    def test_the_database_knows_how_many_rows_there_are(self, inside, backend):
        known = "SELECT stat FROM sqlite_stat1 WHERE tbl = 'users'"
        if backend == "postgresql":
            known = "SELECT reltuples::bigint FROM pg_class WHERE relname = 'users'"
        assert str(db.session.scalar(text(known))).split()[0] == "43"

    @pytest.mark.parametrize("role", ["admin", "staff", "user"])
    def test_every_printed_login_works(self, season, role):
        emails = re.findall(rf"^  (\S+) \({role}\)$", season.output, re.M)
        answers = [
            season.test_client().post("/login", json={"email": email, "password": PASSWORD}).get_json()
            for email in emails
        ]
        assert emails and {answer["user"]["role"] for answer in answers} == {role}


class TestDemo:
    def test_its_password_is_random_and_printed(self, app, client):
        output = fill(app, "--events", "1", "--users", "1", "--orders", "0").output
        password = re.search(r"password (\S+) as", output)[1]
        answer = client.post("/login", json={"email": "admin@example.com", "password": password})
        assert answer.status_code == 200

    def test_a_password_that_nobody_may_have_is_refused(self, app, context):
        result = fill(app, "--password", "short")
        assert result.exit_code == 2 and "at least 8 characters" in result.output
        assert count(User) == 0

    def test_a_database_with_rows_in_its_way_is_left_alone_and_they_are_named(self, app, context):
        db.session.execute(text("INSERT INTO categories (name, folded) VALUES ('Opera', 'opera')"))
        db.session.commit()
        result = fill(app)
        assert result.exit_code == 1 and "1 in categories" in result.output
        assert count(Event) == 0

    def test_accounts_are_not_in_its_way(self, app, context):
        admin = ["--name", "Ada", "--email", "ada@example.com", "--password", PASSWORD]
        app.test_cli_runner().invoke(args=["create-admin", *admin])
        assert fill(app).exit_code == 0
        assert check_inventory() == []
        assert User.by_email("ada@example.com").name == "Ada"

    def test_account_with_an_address_of_its_own_is_named(self, app, context):
        User.sign_up(name="Ada", email="admin@example.com", password=PASSWORD)
        db.session.commit()
        result = fill(app)
        assert result.exit_code == 1 and "admin@example.com" in result.output
        assert count(User) == 1

    def test_a_second_one_is_refused(self, app, context):
        assert fill(app, "--orders", "1").exit_code == 0
        assert fill(app, "--orders", "1").exit_code == 1
        assert count(Order) == 1

    def test_a_database_without_tables_is_named(self, make_database):
        app = create_app({**CONFIG, "SQLALCHEMY_DATABASE_URI": make_database()})
        result = fill(app)
        assert result.exit_code == 1 and "flask db upgrade" in result.output
        with app.app_context():
            assert inspect(db.engine).get_table_names() == []
            dispose()

    def test_one_that_fails_half_way_leaves_nothing(self, app, context):
        app.config["CURRENCY"] = None  # no order can be written
        assert fill(app).exit_code == 1
        assert count(User) == count(Event) == 0

    def test_what_comes_after_it_gets_an_id(self, app, client):
        fill(app, "--password", PASSWORD)
        token = client.post("/login", json={"email": "admin@example.com", "password": PASSWORD}).get_json()
        headers = bearer(token["access_token"])
        assert client.post("/categories", json={"name": "Opera"}, headers=headers).status_code == 201

    @pytest.mark.parametrize("events, users, orders", [(1, 1, 9), (2, 2, 9), (12, 3, 40), (450, 5001, 400)])
    def test_it_is_as_big_as_it_is_told(self, app, context, events, users, orders):
        fill(app, "--events", str(events), "--users", str(users), "--orders", str(orders))
        assert (count(Event), count(User, User.role == "user"), count(Order)) == (events, users, orders)
        assert check_inventory() == []

    def test_its_times_are_right_in_any_time_zone(self, make_database, monkeypatch):
        monkeypatch.setenv("PGTZ", "Asia/Tokyo")
        app = create_app({**CONFIG, "SQLALCHEMY_DATABASE_URI": make_database()})
        with app.app_context():
            db.create_all()
            fill(app)
            latest = db.session.scalar(select(func.max(Order.created_at)))
            db.session.remove()
            dispose()
        assert abs(datetime.now(UTC) - latest) < timedelta(hours=1)

    def test_a_seed_gives_the_same_season_with_other_codes(self, app, migrated):
        assert choices(app, "--seed", "7") == choices(migrated, "--seed", "7")
        assert not codes(app) & codes(migrated)

    def test_another_seed_gives_another_season(self, app, migrated):
        assert choices(app, "--seed", "7") != choices(migrated, "--seed", "8")


def choices(app, *arguments):
    """What a run chose, apart from times and secrets."""
    fill(app, "--events", "60", *arguments)
    chosen = [
        select(Event.name, Event.description, Event.venue, Event.status).order_by(Event.id),
        select(Order.event_id, Order.user_id, Order.state, Order.total).order_by(Order.id),
        select(Payment.order_id, Payment.method, Payment.status).order_by(Payment.id),
        select(Ticket.ticket_type_id, Ticket.status).order_by(Ticket.id),
        select(User.name, User.email).order_by(User.id),
    ]
    with app.app_context():
        return [db.session.execute(rows).all() for rows in chosen]


def codes(app):
    with app.app_context():
        return {*db.session.scalars(select(Order.code)), *db.session.scalars(select(Ticket.code))}
