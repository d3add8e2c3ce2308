"""The outbox: what is told is written with what it tells, and sent once a mail server can be had."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from threading import Event, Thread

import icalendar
import pytest

from models import Mail, Order, Ticket, User, db, now
from routes.jobs.mails import post_office, send_due_mails
from routes.selling.mails import PAUSES, claim_mail, tell

from .conftest import plain_text

NOBODY_THERE = "smtp://127.0.0.1:1"
pytestmark = pytest.mark.usefixtures("shop")


TOMORROW = datetime.now(UTC) + timedelta(days=1)


@pytest.fixture
def mails(context):
    """The rows of the outbox, or of one kind, as they are now."""

    def read(kind=None):
        db.session.rollback()
        rows = db.select(Mail).order_by(Mail.id)
        rows = rows if kind is None else rows.where(Mail.kind == kind)
        return db.session.scalars(rows, execution_options={"populate_existing": True}).all()

    return read


@pytest.fixture
def let_pass(context):
    """Let seconds pass for the outbox."""

    def move(seconds):
        for mail in db.session.scalars(db.select(Mail)):
            mail.due_at -= timedelta(seconds=seconds)
        db.session.commit()

    return move


class TestWriting:
    def test_payment_writes_one_mail(self, buyer, paid_order, mails):
        assert [(mail.kind, mail.to, mail.status) for mail in mails()] == [("order_paid", buyer.email, "waiting")]

    def test_free_order_writes_one_mail(self, buyer, make_ticket_type, place, mails):
        place(buyer, make_ticket_type(price=0))
        assert [mail.kind for mail in mails()] == ["order_paid"]

    def test_pending_and_canceled_order_write_none(self, pending_order, mails, cancel):
        cancel(pending_order)
        assert mails() == []

    def test_refused_payment_writes_none(self, pending_order, pay, mails):
        assert pay(pending_order, amount=1).status_code == 409
        assert mails() == []

    def test_rolled_back_payment_writes_none(self, pending_order, pay, mails, monkeypatch):
        def fail():
            raise RuntimeError

        monkeypatch.setattr(db.session, "commit", fail)
        assert pay(pending_order).status_code == 500
        monkeypatch.undo()
        assert mails() == []

    def test_payment_once_more_writes_no_second(self, pending_order, pay, mails):
        fields = {"method": "bank_transfer", "reference": "1"}
        assert [pay(pending_order, **fields).status_code for _ in range(2)] == [201, 200]
        assert len(mails()) == 1

    def test_none_is_written_without_a_mail_server(self, app, pending_order, pay, mails):
        app.config["SMTP_URL"] = ""
        pay(pending_order)
        assert mails() == []

    def test_refund_writes_what_goes_back(self, paid_order, mails, refund):
        refund(paid_order)
        [mail] = mails("order_refunded")
        assert len(mail.facts.pop("tickets")) == 2
        assert mail.facts == {"amount": 5000, "by": "hand", "reason": None}

    def test_double_payment_is_told(self, paid_order, pay, mails):
        pay(paid_order, reference="again")
        [mail] = mails("payment_returned")
        assert (mail.facts["reason"], mail.facts["amount"]) == ("double", 5000)

    def test_late_payment_without_places_is_told(self, buyer, make_user, make_ticket_type, place, pay, lapse, mails):
        ticket_type = make_ticket_type(quantity=1)
        late = place(buyer, ticket_type).get_json()
        lapse(late)
        place(make_user(), ticket_type)
        pay(late)
        assert [mail.facts["reason"] for mail in mails("payment_returned")] == ["late"]

    def test_payment_of_canceled_order_is_told(self, pending_order, pay, mails, cancel):
        cancel(pending_order)
        pay(pending_order)
        assert [mail.facts["reason"] for mail in mails("payment_returned")] == ["canceled"]


@pytest.fixture
def event_id(client, buyer, paid_order, context):
    """The event that the buyer of the paid order goes to."""
    return db.session.scalar(db.select(Order.event_id))


@pytest.fixture
def edit(client, admin, event_id):
    return lambda **changes: client.patch(f"/events/{event_id}", json=changes, headers=admin.headers)


class TestEventMails:
    @pytest.mark.parametrize(
        "change",
        [{"venue": "Elsewhere"}, {"starts_at": f"{TOMORROW:%Y-%m-%dT%H:%M:%SZ}"}, {"ends_at": "2099-01-01T00:00:00Z"}],
        ids=["venue", "starts_at", "ends_at"],
    )
    def test_new_time_or_place_is_told(self, buyer, edit, mails, change):
        assert edit(**change).status_code == 200
        assert [mail.to for mail in mails("event_changed")] == [buyer.email]

    @pytest.mark.parametrize("change", [{"name": "New"}, {"description": "New"}, {"venue": "Hall"}, {}])
    def test_other_changes_are_not(self, edit, mails, change):
        assert edit(**change).status_code == 200
        assert mails("event_changed") == []

    def test_each_change_is_told_once(self, edit, mails):
        for venue in ("One", "Two", "Two"):
            edit(venue=venue)
        assert len(mails("event_changed")) == 2

    def test_owner_of_a_ticket_is_told_as_its_buyer_is(self, buyer, make_user, paid_order, edit, mails):
        owner, code = make_user(), paid_order["tickets"][0]["code"]
        db.session.execute(db.update(Ticket).where(Ticket.code == code).values(user_id=owner.id))
        db.session.commit()
        edit(venue="Elsewhere")
        assert {mail.to for mail in mails("event_changed")} == {buyer.email, owner.email}

    def test_cancellation_is_told_once(self, buyer, edit, mails):
        for _ in range(2):
            edit(status="canceled", venue="Nowhere")
        assert [mail.to for mail in mails("event_canceled")] == [buyer.email]
        assert mails("event_changed") == []

    def test_who_has_no_ticket_is_not_told(self, make_user, make_ticket_type, paid_order, place, edit, mails, refund):
        place(make_user(), paid_order["items"][0]["ticket_type_id"])
        refund(paid_order)
        edit(status="canceled")
        assert mails("event_canceled") == []

    def test_buyer_of_two_orders_gets_one(self, buyer, paid_order, place, pay, edit, mails):
        pay(place(buyer, paid_order["items"][0]["ticket_type_id"]).get_json())
        edit(status="canceled")
        assert len(mails("event_canceled")) == 1

    def test_event_that_is_over_concerns_nobody(self, edit, mails):
        edit(starts_at="2020-01-01T20:00:00Z", ends_at="2020-01-01T22:00:00Z")
        edit(status="canceled")
        assert mails("event_canceled") == []

    def test_all_buyers_are_told_by_one_statement(self, client, admin, event_id, edit, mails, statements):
        with db.engine.begin() as connection:
            people = [{"name": "P", "email": f"p{number}@example.com", "stamp": ""} for number in range(1000)]
            connection.execute(db.insert(User.__table__), people)
            ids = connection.scalars(db.select(User.id).where(User.name == "P")).all()
            orders = [
                {"code": f"C{id}", "user_id": id, "number": 1, "event_id": event_id, "status": "paid"} for id in ids
            ]
            common = {"total": 0, "currency": "USD", "expires_at": datetime.now(UTC)}
            connection.execute(db.insert(Order.__table__), [order | common for order in orders])
        sent = statements(lambda: edit(status="canceled"))
        assert len([statement for statement in sent if "INTO mails" in statement]) == 1
        assert len({mail.message_key for mail in mails("event_canceled")}) == 1001


class TestSending:
    def test_tickets_arrive(self, buyer, paid_order, send_mails, mails):
        [message] = send_mails()
        assert message["To"] == f"Somebody <{buyer.email}>"
        codes = {ticket["code"] for ticket in paid_order["tickets"]}
        assert {code for code in codes if f"https://shop.example/tickets/{code}/page" in plain_text(message)} == codes
        assert "50.00 USD" in plain_text(message)
        assert [mail.status for mail in mails()] == ["sent"]

    def test_tickets_come_with_pictures_and_a_calendar_file(self, paid_order, send_mails):
        [message] = send_mails()
        kinds = Counter(part.get_content_type() for part in message.walk())
        assert (kinds["image/png"], kinds["text/calendar"]) == (2, 1)

    def test_time_is_the_event_s_own_and_answers_go_to_its_contact(
        self, buyer, make_event, make_ticket_type, place, send_mails
    ):
        start = datetime(2099, 7, 10, 18, 0, tzinfo=UTC)
        event = {"starts_at": start, "ends_at": start + timedelta(hours=3), "time_zone": "Europe/Berlin"}
        place(buyer, make_ticket_type(make_event(**event, contact="box-office@example.org"), price=0))
        [message] = send_mails()
        assert "20:00 to 23:00 (Europe/Berlin)" in plain_text(message)
        assert message["Reply-To"] == "box-office@example.org"

    def test_nothing_is_sent_twice(self, paid_order, send_mails):
        send_mails()
        assert len(send_mails()) == 1

    def test_every_kind_there_is_to_tell_arrives(self, paid_order, pay, edit, send_mails, refund):
        pay(paid_order, reference="again")
        edit(venue="Elsewhere")
        send_mails()
        edit(status="canceled")
        refund(paid_order)
        subjects = [message["Subject"].partition(" ")[0] for message in send_mails()]
        assert sorted(subjects) == ["Canceled:", "New", "Refund", "Your", "Your"]

    def test_what_is_no_longer_so_is_not_sent(self, paid_order, send_mails, mails, refund):
        refund(paid_order)
        assert [message["Subject"] for message in send_mails()] == ["Refund for Concert"]
        assert [(mail.status, mail.error) for mail in mails("order_paid")] == [("failed", "The tickets are gone")]

    def test_new_address_gets_what_was_waiting(self, paid_order, buyer, send_mails, mails, context):
        db.session.execute(db.update(User).where(User.id == buyer.id).values(email="new@example.com"))
        db.session.commit()
        [message] = send_mails()
        assert message["To"] == "Somebody <new@example.com>"
        assert [mail.to for mail in mails()] == ["new@example.com"]

    def test_one_person_s_mail_comes_before_those_to_many(self, edit, paid_order, make_user, place, pay, send_mails):
        edit(venue="Elsewhere")
        pay(place(make_user(), paid_order["items"][0]["ticket_type_id"]).get_json())
        assert [message["Subject"].split()[0] for message in send_mails()] == ["Your", "Your", "New"]

    def test_no_connection_is_held_while_it_is_sent(self, context, paid_order, mail_server, while_sending):
        db.session.rollback()
        held = while_sending(lambda: [engine.pool.checkedout() for engine in db.engines.values()])
        assert (set(held), len(mail_server.messages)) == ({0}, 1)


class TestFaults:
    def test_server_that_is_down_holds_up_no_sale(self, app, buyer, paid_order, place, pay, send_mails, mails):
        app.config["SMTP_URL"] = NOBODY_THERE
        assert send_mails() == []
        assert pay(place(buyer, paid_order["items"][0]["ticket_type_id"]).get_json()).status_code == 201
        assert {mail.status for mail in mails()} == {"waiting"}

    def test_server_that_is_down_costs_one_mail_one_attempt(self, app, paid_order, edit, send_mails, mails):
        edit(venue="Elsewhere")
        app.config["SMTP_URL"] = NOBODY_THERE
        send_mails()
        assert sorted(mail.attempts for mail in mails()) == [0, 1]

    def test_temporary_no_is_tried_again_after_a_minute(self, mail_server, paid_order, send_mails, mails, let_pass):
        mail_server.answers["DATA"] = ["450 later"]
        assert send_mails() == []
        [mail] = mails()
        assert (mail.status, mail.attempts, mail.error) == ("waiting", 1, "450 later")
        let_pass(55)
        assert send_mails() == []
        let_pass(6)
        assert len(send_mails()) == 1
        assert [(mail.status, mail.attempts, mail.error) for mail in mails()] == [("sent", 2, None)]

    def test_pauses_grow_until_it_has_failed(self, mail_server, paid_order, send_mails, mails, let_pass):
        mail_server.answers["DATA"] = ["450 later"] * 10
        for pause in PAUSES:
            send_mails()
            [mail] = mails()
            left = mail.due_at - db.session.scalar(db.select(now()))
            assert pause - 20 < left.total_seconds() <= pause
            let_pass(pause)
        send_mails()
        assert [(mail.status, mail.attempts) for mail in mails()] == [("failed", 7)]

    def test_dead_recipient_is_given_up_and_blocks_nobody(
        self, mail_server, buyer, paid_order, make_user, place, pay, send_mails, mails
    ):
        mail_server.answers[buyer.email] = ["550 nobody here"]
        pay(place(make_user(), paid_order["items"][0]["ticket_type_id"]).get_json())
        assert len(send_mails()) == 1
        assert [(mail.status, mail.error) for mail in mails()] == [("failed", "550 nobody here"), ("sent", None)]

    def test_wrong_password_of_ours_fails_no_mail(self, app, paid_order, mail_server, send_mails, mails):
        app.config["SMTP_URL"] = f"smtp://shop:wrong@{mail_server.address}"
        send_mails()
        assert [(mail.status, mail.error[:3]) for mail in mails()] == [("waiting", "535")]

    def test_mail_that_can_t_be_written_blocks_nobody(
        self, buyer, paid_order, make_user, place, pay, send_mails, mails, context
    ):
        db.session.execute(db.update(Mail).values(kind="ticket_transferred", facts={}))
        db.session.commit()
        pay(place(make_user(), paid_order["items"][0]["ticket_type_id"]).get_json())
        assert len(send_mails()) == 1
        assert [(mail.status, mail.error) for mail in mails()][0] == ("waiting", "Not written: KeyError")

    def test_server_that_hangs_up_after_the_text_gets_it_again_with_the_same_id(
        self, mail_server, paid_order, send_mails, let_pass, mails
    ):
        mail_server.answers["DATA"] = ["hang up"]
        send_mails()
        let_pass(60)
        [message] = send_mails()
        assert message["Message-ID"] == f"<mail.{mails()[0].message_key}@mail.example>"

    @pytest.fixture
    def other_claim(self, let_pass):
        """Another sender's claim on a mail whose lease has ended: the row as it then is."""

        def claim():
            let_pass(200)
            claimed = claim_mail()
            db.session.commit()
            return claimed

        return claim

    def test_outcome_of_who_lost_the_lease_changes_nothing(
        self, mail_server, paid_order, while_sending, other_claim, mails
    ):
        mail_server.answers["DATA"] = ["450 later"]
        due_at = while_sending(lambda: other_claim().due_at)
        assert [(mail.due_at, mail.error) for mail in mails()] == [(due_at, None)]

    def test_yes_of_the_server_counts_though_the_lease_had_ended(self, paid_order, while_sending, other_claim, mails):
        while_sending(other_claim)
        assert [mail.status for mail in mails()] == ["sent"]


class TestManySenders:
    def test_two_hundred_mails_go_out_once_each(self, app, buyer, mail_server, mails):
        for number in range(200):
            tell("password_changed", buyer.id, str(number))
        db.session.commit()

        def send():
            with app.app_context():
                send_due_mails(Event())

        senders = [Thread(target=send) for _ in range(4)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        ids = Counter(message["Message-ID"] for message in mail_server.messages)
        assert (len(ids), set(ids.values())) == (200, {1})
        assert {(mail.status, mail.attempts) for mail in mails()} == {("sent", 1)}


class TestOffice:
    def test_stays_closed_for_a_while_after_a_fault(self, app, paid_order, send_mails, mails, let_pass):
        app.config["SMTP_URL"] = NOBODY_THERE
        send_mails()
        let_pass(60)
        with app.app_context():
            send_due_mails(Event())
        assert [mail.attempts for mail in mails()] == [1]

    def test_asked_to_stop_it_claims_no_more(self, app, paid_order, mails, mail_server):
        stop = Event()
        stop.set()
        with app.app_context():
            send_due_mails(stop)
        assert [mail.attempts for mail in mails()] == [0]

    @pytest.mark.parametrize(
        "settings",
        [
            ("smtp://mail.example", "", "a@b.example"),
            ("smtp://mail.example", "https://shop.example", ""),
            ("ftp://mail.example", "https://shop.example", "a@b.example"),
            ("smtp://mail.example", "shop.example", "a@b.example"),
            ("smtp://mail.example", "https://shop.example", "nobody"),
        ],
    )
    def test_refuses_settings_that_are_no_good(self, settings):
        with pytest.raises(SystemExit):
            post_office(*settings)


class TestList:
    @pytest.fixture
    def three(self, mail_server, buyer, paid_order, make_user, place, pay, send_mails):
        """A mail that failed, one that was sent and one that waits."""
        mail_server.answers[buyer.email] = ["550 nobody here"]
        other = make_user()
        for _ in range(2):
            order = place(other, paid_order["items"][0]["ticket_type_id"]).get_json()
            pay(order)
            if not mail_server.messages:
                send_mails()
        return other

    def test_shows_what_came_of_each_and_never_its_content(self, client, admin, three):
        found = client.get("/mails", headers=admin.headers).get_json()
        assert [mail["status"] for mail in found] == ["waiting", "sent", "failed"]
        fields = {"id", "kind", "status", "user_id", "to", "created_at", "due_at", "sent_at", "failed_at"}
        assert set(found[0]) == fields | {"attempts", "error"}

    @pytest.mark.parametrize("status", ["waiting", "sent", "failed"])
    def test_status_narrows_it(self, client, admin, three, status):
        found = client.get(f"/mails?status={status}", headers=admin.headers).get_json()
        assert [mail["status"] for mail in found] == [status]

    def test_user_narrows_it(self, client, admin, three):
        found = client.get(f"/mails?user={three.id}&limit=1", headers=admin.headers)
        assert [mail["user_id"] for mail in found.get_json()] == [three.id]
        assert f"user={three.id}" in found.headers["Link"]

    def test_takes_two_statements(self, client, admin, three, statements):
        assert len(statements(lambda: client.get("/mails", headers=admin.headers))) == 2


class TestRetry:
    def test_failed_mail_is_sent_again(self, client, admin, mail_server, buyer, paid_order, send_mails, mails):
        mail_server.answers[buyer.email] = ["550 nobody here"]
        send_mails()
        assert client.post(f"/mails/{mails()[0].id}/retry", headers=admin.headers).status_code == 202
        assert len(send_mails()) == 1
        assert [(mail.status, mail.attempts) for mail in mails()] == [("sent", 1)]

    def test_waiting_mail_need_not_wait(self, client, admin, mail_server, paid_order, send_mails, mails):
        mail_server.answers["DATA"] = ["450 later"]
        send_mails()
        client.post(f"/mails/{mails()[0].id}/retry", headers=admin.headers)
        assert len(send_mails()) == 1

    def test_sent_mail_goes_out_with_the_same_id(self, client, admin, paid_order, send_mails, mails):
        send_mails()
        client.post(f"/mails/{mails()[0].id}/retry", headers=admin.headers)
        first, second = send_mails()
        assert first["Message-ID"] == second["Message-ID"]

    def test_unknown_one_is_not_there(self, client, admin):
        assert client.post("/mails/7/retry", headers=admin.headers).status_code == 404

    def test_without_a_mail_server_it_is_refused(self, app, client, admin, paid_order, mails):
        app.config["SMTP_URL"] = ""
        answer = client.post(f"/mails/{mails()[0].id}/retry", headers=admin.headers)
        assert (answer.status_code, answer.json["reason"]) == (409, "not_configured")


class TestOrderMail:
    @pytest.fixture
    def ask(self, client, paid_order):
        return lambda user: client.post(f"/orders/{paid_order['code']}/mail", headers=user.headers)

    def test_tickets_come_once_more(self, ask, buyer, send_mails):
        assert ask(buyer).status_code == 202
        assert [message["Subject"] for message in send_mails()] == ["Your tickets for Concert"] * 2

    def test_buyer_gets_three_an_hour(self, ask, buyer, mails):
        answers = [ask(buyer) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [202] * 3 + [429]
        assert "Retry-After" in answers[-1].headers
        assert len(mails()) == 4

    def test_an_hour_later_he_gets_more(self, ask, buyer, context):
        for _ in range(3):
            ask(buyer)
        db.session.execute(db.update(Mail).values(created_at=now(-3601)))
        db.session.commit()
        assert ask(buyer).status_code == 202

    def test_asked_for_ten_times_at_once_he_gets_three(self, app, paid_order, buyer, mails):
        def ask():
            app.test_client().post(f"/orders/{paid_order['code']}/mail", headers=buyer.headers)

        calls = [Thread(target=ask) for _ in range(10)]
        for call in calls:
            call.start()
        for call in calls:
            call.join()
        assert len(mails()) == 4

    def test_staff_may_as_often_as_they_like(self, ask, staff):
        assert {ask(staff).status_code for _ in range(5)} == {202}

    def test_somebody_else_s_is_not_there(self, ask, make_user):
        assert ask(make_user()).status_code == 404

    def test_order_that_is_not_paid_has_no_tickets(self, client, buyer, pending_order):
        answer = client.post(f"/orders/{pending_order['code']}/mail", headers=buyer.headers)
        assert (answer.status_code, answer.json["reason"]) == (409, "not_paid")

    def test_without_a_mail_server_it_is_refused(self, app, ask, buyer):
        app.config["SMTP_URL"] = ""
        assert ask(buyer).json["reason"] == "not_configured"

    def test_reading_and_checking_in_send_nothing(self, client, buyer, paid_order, mails, check_in):
        code = paid_order["tickets"][0]["code"]
        for path in (f"/tickets/{code}", f"/orders/{paid_order['code']}", "/tickets"):
            client.get(path, headers=buyer.headers)
        check_in(code)
        assert len(mails()) == 1


class TestCalendar:
    def read(self, response):
        assert (response.status_code, response.mimetype) == (200, "text/calendar")
        [event] = icalendar.Calendar.from_ical(response.data).walk("VEVENT")
        return event

    def test_is_for_anyone(self, client, make_event):
        id = make_event(name="Łukasz; 王小明")
        event = self.read(client.get(f"/events/{id}/calendar"))
        assert (event["SUMMARY"], event["UID"]) == ("Łukasz; 王小明", f"event-{id}@shop.example")
        assert event["STATUS"] == "CONFIRMED"

    def test_says_what_the_mail_says(self, client, event_id, paid_order, send_mails):
        [message] = send_mails()
        [part] = [part for part in message.walk() if part.get_content_type() == "text/calendar"]
        asked = client.get(f"/events/{event_id}/calendar").get_data(as_text=True)
        assert part.get_content().replace("\r\n", "\n") == asked.replace("\r\n", "\n")

    def test_grows_with_each_change_until_it_is_canceled(self, client, edit, event_id):
        edit(venue="Elsewhere")
        edit(status="canceled")
        event = self.read(client.get(f"/events/{event_id}/calendar"))
        assert (event["SEQUENCE"], event["STATUS"]) == (3, "CANCELLED")

    def test_forged_host_reaches_no_file(self, client, make_event):
        forged = {"Host": "evil.example", "X-Forwarded-Host": "evil.example"}
        assert b"evil" not in client.get(f"/events/{make_event()}/calendar", headers=forged).data

    def test_draft_is_there_for_admins_alone(self, client, admin, buyer, make_event):
        path = f"/events/{make_event(status='draft')}/calendar"
        answers = [client.get(path, headers=headers) for headers in ({}, buyer.headers, admin.headers)]
        assert [answer.status_code for answer in answers] == [404, 404, 200]

    def test_unknown_one_is_not_there(self, client):
        assert client.get("/events/7/calendar").status_code == 404
