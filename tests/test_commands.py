"""The commands that make the first admin and help somebody who forgot the password."""

import pytest

from models import Mail, User, db

from .conftest import PASSWORD, log_in

ADA = {"name": "Ada", "email": "ada@example.com", "password": PASSWORD}


@pytest.fixture
def run(app):
    return app.test_cli_runner().invoke


def options(**fields):
    return [part for name, value in fields.items() for part in (f"--{name}", value)]


@pytest.fixture
def stored(app):
    """The accounts as they are in the database."""

    def read():
        with app.app_context():
            return db.session.execute(db.select(User.name, User.email, User.role, User.active)).all()

    return read


class TestCreateAdmin:
    def test_makes_an_admin_who_can_log_in(self, run, client):
        assert run(args=["create-admin", *options(**ADA)]).exit_code == 0
        assert log_in(client, ADA["email"], PASSWORD).json["user"]["role"] == "admin"

    def test_asks_for_what_is_missing_and_hides_the_password(self, run, stored):
        result = run(args=["create-admin"], input=f"Ada\nAda@Example.com\n{PASSWORD}\n{PASSWORD}\n")
        assert (result.exit_code, PASSWORD in result.output) == (0, False)
        assert stored() == [("Ada", "ada@example.com", "admin", True)]

    def test_promotes_the_account_that_is_there_and_opens_it(self, run, app, make_user, stored):
        user = make_user(email="ada@example.com", name="Ada Lovelace")
        with app.app_context():
            db.session.get_one(User, user.id).active = False
            db.session.commit()
        assert run(args=["create-admin", *options(**ADA | {"email": " ADA@example.com"})]).exit_code == 0
        assert stored() == [("Ada Lovelace", "ada@example.com", "admin", True)]

    def test_promotion_keeps_the_password_and_ends_the_tokens(self, run, client, make_user):
        user = make_user(email="ada@example.com")
        result = run(args=["create-admin", *options(**ADA | {"password": "another horse"})])
        assert "its name and password stay" in result.output
        assert client.get("/me", headers=user.headers).status_code == 401
        assert log_in(client, user.email, PASSWORD).status_code == 200

    @pytest.mark.parametrize(
        "field, value", [("name", " "), ("email", "ada"), ("password", "short"), ("password", "x" * 73)]
    )
    def test_judges_as_the_api_does(self, run, stored, field, value):
        result = run(args=["create-admin", *options(**ADA | {field: value})])
        assert (result.exit_code, f"--{field}" in result.output, stored()) == (2, True, [])


class TestSetPassword:
    def test_new_password_is_the_one_and_tokens_end(self, run, client, buyer):
        assert run(args=["set-password", buyer.email.upper(), *options(password="another horse")]).exit_code == 0
        assert client.get("/me", headers=buyer.headers).status_code == 401
        assert log_in(client, buyer.email, PASSWORD).status_code == 401
        assert log_in(client, buyer.email, "another horse").status_code == 200

    def test_owner_is_told_by_mail(self, app, run, buyer):
        app.config["SMTP_URL"] = "log:"
        run(args=["set-password", buyer.email, *options(password="another horse")])
        with app.app_context():
            assert db.session.scalars(db.select(Mail.kind)).all() == ["password_changed"]

    def test_of_nobody_is_refused(self, run):
        result = run(args=["set-password", "eve@example.com", *options(password=PASSWORD)])
        assert (result.exit_code, "no account" in result.output) == (1, True)
