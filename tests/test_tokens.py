"""Tokens: the library's settings, what strangers add with its decorators, and how log-ins go on and end."""

import inspect
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import jwt
import pytest
import requests
from flask_jwt_extended import (
    JWTManager,
    create_access_token,
    create_refresh_token,
    current_user,
    decode_token,
    get_jwt,
    jwt_required,
)
from flask_jwt_extended.tokens import _decode_jwt
from flask_restful import Resource

from app import create_app
from models import Login, User, db, now
from routes.http.api import TicketingApi
from routes.http.tokens import Tokens
from routes.selling.accounts import forget_old_logins

from .conftest import JWT_KEY, PASSWORD, ROOT, bearer, dispose, log_in, refusal

LIFETIMES = ["JWT_ACCESS_TOKEN_EXPIRES", "JWT_REFRESH_TOKEN_EXPIRES"]


def refresh(client, token):
    return client.post("/refresh", headers=bearer(token))


def claims_of(token):
    return jwt.decode(token, JWT_KEY, ["HS256"])


@pytest.fixture
def rows(context):
    """The log-ins that are stored."""
    return lambda: db.session.scalars(db.select(Login), execution_options={"populate_existing": True}).all()


@pytest.fixture
def age(context):
    """Let all log-ins have been refreshed so many seconds ago."""

    def move(seconds):
        db.session.execute(db.update(Login).values(renewed_at=now(-seconds)))
        db.session.commit()

    return move


@pytest.fixture
def forget(context):
    """Let time pass until all log-ins that are not kept for ever are forgotten."""

    def clean_up():
        db.session.execute(db.update(Login).where(Login.expires_at.is_not(None)).values(expires_at=now(-1)))
        forget_old_logins()
        db.session.commit()

    return clean_up


class TestReason:
    def test_missing(self, client):
        response = client.get("/me")
        assert (*refusal(response), response.headers["WWW-Authenticate"]) == (401, "token_missing", "Bearer")

    def test_invalid(self, client, buyer):
        assert refusal(client.get("/me", headers=bearer("x"))) == (401, "token_invalid")
        assert refusal(client.get("/me", headers=bearer(buyer.login["refresh_token"]))) == (401, "token_invalid")

    def test_expired(self, client, buyer):
        token = jwt.encode(claims_of(buyer.login["access_token"]) | {"exp": 1}, JWT_KEY)
        assert refusal(client.get("/me", headers=bearer(token))) == (401, "token_expired")

    def test_ended(self, client, buyer):
        client.post("/logout", headers=buyer.headers)
        assert refusal(client.get("/me", headers=buyer.headers)) == (401, "token_ended")

    def test_user_who_is_gone(self, client, buyer, context):
        db.session.execute(db.delete(User))
        db.session.commit()
        assert refusal(client.get("/me", headers=buyer.headers)) == (401, "token_ended")

    def test_documented_refusals_have_none(self, client, buyer):
        answers = [log_in(client, buyer.email, "wrong"), client.get("/users", headers=buyer.headers)]
        assert [(answer.status_code, list(answer.json)) for answer in answers] == [(401, ["message"])] * 2

    @pytest.mark.parametrize("scheme", ["bearer", "BEARER", "bEaReR"])
    def test_scheme_counts_in_any_case(self, client, buyer, scheme):
        headers = {"Authorization": f"{scheme} {buyer.login['access_token']}"}
        assert client.get("/me", headers=headers).status_code == 200


class TestSettings:
    """As the library's documentation has them. Each is set where others would: in the application's configuration."""

    @pytest.fixture
    def set(self, app):
        return lambda **settings: app.config.update(settings)

    @pytest.mark.parametrize("lifetime", [90, timedelta(seconds=90), False])
    @pytest.mark.parametrize("setting", LIFETIMES)
    def test_lifetime_in_any_form_serves_every_call(self, client, buyer, set, setting, lifetime):
        set(**{setting: lifetime})
        login = log_in(client, buyer.email).json
        assert client.get("/me", headers=bearer(login["access_token"])).status_code == 200
        renewed = refresh(client, login["refresh_token"])
        assert renewed.status_code == 200
        assert client.post("/logout", headers=bearer(renewed.json["access_token"])).status_code == 204

    @pytest.mark.parametrize("lifetime, seconds", [(90, 90), (timedelta(minutes=2), 120), (False, None)])
    def test_expires_in_is_the_access_tokens(self, client, buyer, set, lifetime, seconds):
        set(JWT_ACCESS_TOKEN_EXPIRES=lifetime)
        login = log_in(client, buyer.email).json
        claims = claims_of(login["access_token"])
        assert (login["expires_in"], claims.get("exp", claims["iat"]) - claims["iat"]) == (seconds, seconds or 0)

    @pytest.mark.parametrize("lifetime, seconds", [(90, 90), (timedelta(days=2), 172_800), (False, None)])
    def test_refresh_token_lives_as_long_as_it_is_told_to(self, client, buyer, set, lifetime, seconds):
        set(JWT_REFRESH_TOKEN_EXPIRES=lifetime)
        claims = claims_of(log_in(client, buyer.email).json["refresh_token"])
        assert ("exp" in claims and claims["exp"] - claims["iat"]) == (seconds or False)

    @pytest.mark.parametrize("leeway", [60, timedelta(seconds=60)])
    def test_leeway(self, client, buyer, set, leeway):
        token = jwt.encode(
            claims_of(buyer.login["access_token"]) | {"exp": datetime.now(UTC).timestamp() - 30}, JWT_KEY
        )
        assert client.get("/me", headers=bearer(token)).status_code == 401
        set(JWT_DECODE_LEEWAY=leeway)
        assert client.get("/me", headers=bearer(token)).status_code == 200

    @pytest.mark.parametrize("ahead, status", [(5, 200), (30, 401)])
    def test_clock_of_another_server_may_be_ahead_for_ten_seconds(self, client, buyer, ahead, status):
        claims = claims_of(buyer.login["access_token"])
        token = jwt.encode(claims | {name: claims[name] + ahead for name in ("iat", "nbf")}, JWT_KEY)
        assert client.get("/me", headers=bearer(token)).status_code == status

    def test_algorithm(self, client, buyer, set):
        set(JWT_ALGORITHM="HS512", JWT_SECRET_KEY=JWT_KEY * 2)
        token = log_in(client, buyer.email).json["access_token"]
        assert jwt.get_unverified_header(token)["alg"] == "HS512"
        assert client.get("/me", headers=bearer(token)).status_code == 200
        assert client.get("/me", headers=buyer.headers).status_code == 401

    @pytest.mark.parametrize("kind", ["AUDIENCE", "ISSUER"])
    def test_audience_and_issuer(self, client, buyer, set, kind):
        set(**{f"JWT_DECODE_{kind}": "shop"})
        assert refusal(client.get("/me", headers=buyer.headers)) == (401, "token_invalid")
        set(**{f"JWT_ENCODE_{kind}": "shop"})
        login = log_in(client, buyer.email).json
        assert client.get("/me", headers=bearer(login["access_token"])).status_code == 200
        assert refresh(client, login["refresh_token"]).status_code == 200

    def test_claim_of_the_identity(self, client, buyer, set):
        set(JWT_IDENTITY_CLAIM="user")
        token = log_in(client, buyer.email).json["access_token"]
        assert claims_of(token)["user"] == str(buyer.id)
        assert client.get("/me", headers=bearer(token)).status_code == 200

    def test_header(self, client, buyer, set):
        set(JWT_HEADER_NAME="X-Token", JWT_HEADER_TYPE="")
        assert client.get("/me", headers={"X-Token": buyer.login["access_token"]}).status_code == 200
        assert refusal(client.get("/me", headers=buyer.headers)) == (401, "token_missing")

    def test_location(self, client, buyer, set):
        set(JWT_TOKEN_LOCATION=["query_string"])
        assert client.get(f"/me?jwt={buyer.login['access_token']}").status_code == 200
        assert client.get(f"/events?jwt={buyer.login['access_token']}x").status_code == 401
        assert client.get("/events").status_code == 200

    def test_token_that_never_expires_is_good(self, client, buyer, context):
        token = create_access_token(identity=buyer.id, expires_delta=False)
        assert "exp" not in claims_of(token)
        assert client.get("/me", headers=bearer(token)).status_code == 200

    def test_log_in_is_fresh_and_a_refresh_is_not(self, client, buyer):
        renewed = refresh(client, buyer.login["refresh_token"]).json
        assert claims_of(buyer.login["access_token"])["fresh"] is True
        assert claims_of(renewed["access_token"])["fresh"] is False


class TestLibrary:
    """What is overridden is still there: if one of these fails, look at what `Tokens` does."""

    def test_reads_tokens_by_the_method_that_is_overridden(self):
        method = JWTManager._decode_jwt_from_config
        assert list(inspect.signature(method).parameters) == ["self", "encoded_token", "csrf_value", "allow_expired"]
        assert list(inspect.signature(Tokens._decode_jwt_from_config).parameters) == list(
            inspect.signature(method).parameters
        )
        assert "_decode_jwt_from_config" in inspect.getsource(decode_token)

    def test_reads_as_the_override_does(self, buyer, context):
        token = buyer.login["access_token"]
        own = JWTManager._decode_jwt_from_config(context.extensions["flask-jwt-extended"], token)
        assert own == decode_token(token) == claims_of(token)
        assert set(inspect.signature(_decode_jwt).parameters) == {
            *("algorithms", "allow_expired", "audience", "csrf_value", "encoded_token", "identity_claim_key"),
            *("issuer", "leeway", "secret", "verify_aud", "verify_sub"),
        }

    def test_chooses_the_key_where_that_is_asked_for(self, app, client, buyer):
        manager = app.extensions["flask-jwt-extended"]
        before = manager._decode_key_callback
        manager.decode_key_loader(lambda header, claims: "another key, long enough to sign with")
        try:
            assert client.get("/me", headers=buyer.headers).status_code == 401
        finally:
            manager.decode_key_loader(before)


class Documented(Resource):
    method_decorators = []

    @jwt_required()
    def get(self):
        return {"role": get_jwt()["role"], "id": current_user.id}


class TestStranger:
    """A resource and a route that somebody adds as the documentation shows."""

    @pytest.fixture
    def client(self, app):
        other = create_app({**app.config})
        api = TicketingApi()
        api.add_resource(Documented, "/documented", "/documented/<int:number>/<path:rest>")
        api.init_app(other)

        @other.route("/plain")
        @jwt_required()
        def plain():
            return {"role": get_jwt()["role"], "id": current_user.id}

        @other.route("/fresh")
        @jwt_required(fresh=True)
        def fresh():
            return {}

        yield other.test_client()
        with other.app_context():
            dispose()

    @pytest.mark.parametrize("path", ["/documented", "/plain"])
    def test_works(self, client, staff, path):
        assert client.get(path, headers=staff.headers).json == {"role": "staff", "id": staff.id}

    @pytest.mark.parametrize("path", ["/documented", "/plain"])
    @pytest.mark.parametrize(
        "header, reason",
        [
            (None, "token_missing"),
            ("Basic YTpi", "token_missing"),
            ("", "token_missing"),
            (",\xa0,", "token_missing"),
            ("Bearer", "token_invalid"),
            ("Bearer x", "token_invalid"),
            ("Bearer \xe9.b.c", "token_invalid"),
            ("Bearer {refresh}", "token_invalid"),
            ("Bearer {expired}", "token_expired"),
            ("Bearer {deep}", "token_invalid"),
            ("Bearer {odd}", "token_invalid"),
        ],
    )
    def test_errors_have_the_one_shape(self, client, buyer, path, header, reason):
        claims = claims_of(buyer.login["access_token"])
        tokens = {
            "refresh": buyer.login["refresh_token"],
            "expired": jwt.encode(claims | {"exp": 1}, JWT_KEY),
            "deep": "a." + "W" * 100_000 + ".b",
            "odd": jwt.encode(claims | {"sub": "\ud800"}, JWT_KEY),
        }
        headers = {} if header is None else {"Authorization": header.format(**tokens)}
        response = client.get(path, headers=headers)
        assert (*refusal(response), set(response.json)) == (401, reason, {"message", "reason"})
        assert response.headers["WWW-Authenticate"].startswith("Bearer")

    def test_token_that_is_not_fresh_is_refused_in_the_shape_too(self, client, buyer):
        renewed = refresh(client, buyer.login["refresh_token"]).json
        assert client.get("/fresh", headers=buyer.headers).status_code == 200
        assert refusal(client.get("/fresh", headers=bearer(renewed["access_token"]))) == (401, "token_invalid")

    def test_document_leaves_them_out(self, client):
        response = client.get("/openapi.json")
        assert response.status_code == 200
        assert {"/documented", "/plain"} & set(response.json["paths"]) == set()
        assert "/me" in response.json["paths"]

    @pytest.mark.parametrize("options", [[], ["-OO"]])
    def test_works_in_the_documented_application(self, tmp_path, options):
        """Added to `app` and `api` themselves; with -OO, where Python leaves no docstrings."""
        environment = os.environ | {"DATABASE_URL": f"sqlite:///{tmp_path}/a.db", "JWT_SECRET_KEY": JWT_KEY}
        environment.pop("PYTEST_VERSION", None)
        done = subprocess.run(
            [sys.executable, *options, "-c", ADDED], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert json.loads(done.stdout or "null") == [200, 401, 401, "token_missing", "token_invalid"], done.stderr


ADDED = """
import json
from flask_jwt_extended import jwt_required, get_jwt
from flask_restful import Resource
from app import api, app

class Mine(Resource):
    @jwt_required()
    def get(self):
        return {"role": get_jwt()["role"]}

api.add_resource(Mine, "/mine")

@app.route("/plain")
@jwt_required()
def plain():
    return {"role": get_jwt()["role"]}

client = app.test_client()
mine, other = client.get("/mine"), client.get("/plain", headers={"Authorization": "bearer x"})
document = client.get("/openapi.json")
found = [document.status_code, mine.status_code, other.status_code, mine.json["reason"], other.json["reason"]]
print(json.dumps(found))
"""


class TestRotation:
    def test_each_refresh_answers_the_next_token(self, client, buyer):
        tokens = [buyer.login["refresh_token"]]
        for _ in range(3):
            tokens.append(refresh(client, tokens[-1]).json["refresh_token"])
        assert len(set(tokens)) == 4
        assert [claims_of(token)["generation"] for token in tokens] == [0, 1, 2, 3]

    def test_predecessor_gets_the_very_same_successor(self, client, buyer):
        answers = [refresh(client, buyer.login["refresh_token"]) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200] * 3
        assert len({answer.json["refresh_token"] for answer in answers}) == 1
        assert client.get("/me", headers=bearer(answers[-1].json["access_token"])).status_code == 200

    def test_successor_is_the_same_in_another_second(self, client, buyer):
        first = refresh(client, buyer.login["refresh_token"]).json["refresh_token"]
        time.sleep(1.1)
        assert refresh(client, buyer.login["refresh_token"]).json["refresh_token"] == first

    def test_predecessor_is_stolen_after_thirty_seconds(self, client, buyer, age):
        renewed = refresh(client, buyer.login["refresh_token"]).json
        age(31)
        assert refusal(refresh(client, buyer.login["refresh_token"])) == (401, "token_ended")
        assert refusal(refresh(client, renewed["refresh_token"])) == (401, "token_ended")
        assert refusal(client.get("/me", headers=bearer(renewed["access_token"]))) == (401, "token_ended")
        assert refusal(client.get("/me", headers=buyer.headers)) == (401, "token_ended")

    def test_older_one_is_stolen_at_once(self, client, buyer):
        renewed = refresh(client, refresh(client, buyer.login["refresh_token"]).json["refresh_token"]).json
        assert refusal(refresh(client, buyer.login["refresh_token"])) == (401, "token_ended")
        assert refusal(refresh(client, renewed["refresh_token"])) == (401, "token_ended")

    def test_one_from_the_future_ends_the_log_in(self, client, buyer):
        """The database is an older one, from a backup."""
        token = jwt.encode(claims_of(buyer.login["refresh_token"]) | {"generation": 7}, JWT_KEY)
        assert refusal(refresh(client, token)) == (401, "token_ended")

    def test_other_log_ins_live_on(self, client, buyer, age):
        other = log_in(client, buyer.email).json
        refresh(client, buyer.login["refresh_token"])
        age(31)
        refresh(client, buyer.login["refresh_token"])
        assert client.get("/me", headers=bearer(other["access_token"])).status_code == 200

    @pytest.mark.parametrize("generation", [None, "0", -1, 1.0, True, 2**63, [], {}])
    def test_odd_generation_is_no_token(self, client, buyer, generation):
        token = jwt.encode(claims_of(buyer.login["refresh_token"]) | {"generation": generation}, JWT_KEY)
        assert refusal(refresh(client, token)) == (401, "token_invalid")

    def test_two_tabs_that_race_get_the_same(self, app, client, buyer):
        token = buyer.login["refresh_token"]
        for _ in range(5):
            with ThreadPoolExecutor(8) as tabs:
                answers = list(tabs.map(lambda token: refresh(app.test_client(), token), [token] * 8))
            assert [answer.status_code for answer in answers] == [200] * 8
            [token] = {answer.json["refresh_token"] for answer in answers}

    def test_two_tabs_that_race_get_the_same_from_several_processes(self, migrated, start_server):
        with migrated.app_context():
            User.sign_up(name="Ann", email="ann@example.com", password=PASSWORD)
            db.session.commit()
        address = start_server(migrated.config["SQLALCHEMY_DATABASE_URI"], WEB_CONCURRENCY="3").address
        login = {"email": "ann@example.com", "password": PASSWORD}
        token = requests.post(f"{address}/login", json=login, timeout=10).json()["refresh_token"]

        def send(token):
            return requests.post(f"{address}/refresh", headers=bearer(token), timeout=10)

        for _ in range(3):
            with ThreadPoolExecutor(6) as tabs:
                answers = list(tabs.map(send, [token] * 6))
            assert [answer.status_code for answer in answers] == [200] * 6
            [token] = {answer.json()["refresh_token"] for answer in answers}


class TestWithoutRow:
    """Tokens from before there were rows, and those of the library's functions alone."""

    @pytest.fixture
    def old(self, app, buyer):
        """The tokens of a log-in from before, of which nothing is stored."""
        with app.app_context():
            login = {"sid": "0123456789abcdef", "stamp": db.session.get(User, buyer.id).token_version, "role": "user"}
            access = create_access_token(identity=buyer.id, additional_claims=login)
            return access, create_refresh_token(identity=buyer.id, additional_claims=login)

    def test_row_comes_at_the_first_refresh(self, client, old, rows):
        renewed = refresh(client, old[1])
        assert renewed.status_code == 200
        assert [(row.generation, row.ended) for row in rows() if row.sid == "0123456789abcdef"] == [(1, False)]
        assert client.get("/me", headers=bearer(old[0])).status_code == 200
        assert refresh(client, renewed.json["refresh_token"]).status_code == 200

    def test_old_one_is_stolen_after_that(self, client, old, age):
        renewed = refresh(client, old[1]).json
        age(31)
        assert refusal(refresh(client, old[1])) == (401, "token_ended")
        assert refusal(client.get("/me", headers=bearer(renewed["access_token"]))) == (401, "token_ended")

    def test_two_tabs_that_race_get_the_same(self, app, old):
        with ThreadPoolExecutor(8) as tabs:
            answers = list(tabs.map(lambda token: refresh(app.test_client(), token), [old[1]] * 8))
        assert [answer.status_code for answer in answers] == [200] * 8
        assert len({answer.json["refresh_token"] for answer in answers}) == 1

    def test_log_out_is_for_ever(self, client, old, forget):
        client.post("/logout", headers=bearer(old[0]))
        forget()
        assert refusal(refresh(client, old[1])) == (401, "token_ended")

    def test_log_out_after_a_refresh_is_for_ever(self, client, old, forget):
        renewed = refresh(client, old[1]).json
        client.post("/logout", headers=bearer(renewed["access_token"]))
        forget()
        assert refusal(client.get("/me", headers=bearer(old[0]))) == (401, "token_ended")

    @pytest.mark.parametrize("expires", [timedelta(days=1000), False])
    def test_log_out_outlives_what_was_made_to_live_longer(self, client, buyer, context, forget, expires):
        token = bearer(create_refresh_token(identity=buyer.id, expires_delta=expires))
        assert client.post("/logout", headers=token).status_code == 204
        forget()
        assert refusal(client.post("/refresh", headers=token)) == (401, "token_ended")


class TestLogOut:
    @pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
    def test_any_token_ends_all_of_the_log_in(self, client, buyer, kind):
        renewed = refresh(client, buyer.login["refresh_token"]).json
        assert client.post("/logout", headers=bearer(renewed[kind])).status_code == 204
        for token in (buyer.login["access_token"], renewed["access_token"]):
            assert refusal(client.get("/me", headers=bearer(token))) == (401, "token_ended")
        assert refusal(refresh(client, renewed["refresh_token"])) == (401, "token_ended")

    def test_is_not_undone_by_a_clean_up_under_shorter_lifetimes(self, app, client, buyer, forget):
        app.config["JWT_REFRESH_TOKEN_EXPIRES"] = timedelta(days=1)
        client.post("/logout", headers=buyer.headers)
        forget()
        assert refusal(client.get("/me", headers=buyer.headers)) == (401, "token_ended")
        assert refusal(refresh(client, buyer.login["refresh_token"])) == (401, "token_ended")

    def test_log_in_that_lives_is_kept_as_long_as_its_tokens(self, app, client, buyer, rows):
        [before] = [row.expires_at for row in rows()]
        app.config["JWT_REFRESH_TOKEN_EXPIRES"] = timedelta(days=1)
        refresh(client, buyer.login["refresh_token"])
        assert before > datetime.now(UTC) + timedelta(days=30)
        assert [row.expires_at for row in rows()] == [before]

    def test_log_in_that_never_ends_is_kept_for_ever(self, app, client, buyer, rows):
        app.config["JWT_REFRESH_TOKEN_EXPIRES"] = False
        refresh(client, buyer.login["refresh_token"])
        assert [row.expires_at for row in rows()] == [None]

    def test_clean_up_leaves_those_that_live(self, client, buyer, rows):
        assert forget_old_logins() == 0
        assert len(rows()) == 1

    def test_row_goes_with_its_user(self, buyer, rows):
        db.session.execute(db.delete(User))
        db.session.commit()
        assert rows() == []
