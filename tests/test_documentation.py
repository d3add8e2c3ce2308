"""What somebody would test who has the documentation and nothing else: its names, its calls, its texts.

It uses nothing of the other tests, so it also runs alone, with plain `pytest` and no environment (see test_app.py).
"""

import pytest
from flask_bcrypt import check_password_hash, generate_password_hash
from flask_jwt_extended import create_access_token, decode_token

from app import app
from models import User, db

ANN = {"name": "Ann", "email": "ann@example.com", "password": "correct horse"}
HASH = generate_password_hash(ANN["password"]).decode("utf-8")


@pytest.fixture
def client():
    """One application context is open around all requests of a test."""
    with app.app_context():
        db.create_all()
        yield app.test_client()
        db.session.remove()
        db.drop_all()


@pytest.fixture
def admin(client):
    user = User(name="Ada", email="ada@example.com", password=HASH)
    user.role = "admin"
    db.session.add(user)
    db.session.commit()
    return user


def bearer(user):
    token = create_access_token(identity=user.id, additional_claims={"role": user.role})
    return {"Authorization": f"Bearer {token}"}


def log_in(client, **changes):
    return client.post("/login", json={"email": ANN["email"], "password": ANN["password"]} | changes)


def test_sign_up(client):
    response = client.post("/sign-up", json=ANN)
    assert (response.status_code, response.get_json()) == (201, {"message": "User created successfully"})
    user = User.query.filter(User.email == ANN["email"]).first()
    assert (user.name, user.role) == ("Ann", "user")
    assert check_password_hash(user.password, ANN["password"])


@pytest.mark.parametrize(
    "field, text",
    [
        ("name", "User name is required"),
        ("email", "Email address is required"),
        ("password", "Password is required"),
    ],
)
def test_sign_up_without_a_field(client, field, text):
    response = client.post("/sign-up", json={name: value for name, value in ANN.items() if name != field})
    assert (response.status_code, response.get_json()) == (400, {"message": {field: text}})


def test_sign_up_with_an_invalid_address(client):
    response = client.post("/sign-up", json=ANN | {"email": "ann.example.com"})
    assert (response.status_code, response.get_json()) == (400, {"message": {"email": "Please provide a valid email"}})


def test_model_refuses_an_invalid_address(client):
    with pytest.raises(ValueError, match="Please provide a valid email"):
        User(name="Ann", email="ann.example.com")


def test_sign_up_with_a_taken_address_keeps_nothing_of_the_second(client):
    client.post("/sign-up", json=ANN)
    response = client.post("/sign-up", json=ANN | {"name": "Eve"})
    assert response.status_code == 409
    assert [user.name for user in User.query.all()] == ["Ann"]


@pytest.mark.parametrize("body", [[], "text", 5, [["name", "Ann"]]])
def test_sign_up_with_a_body_that_is_no_object(client, body):
    assert client.post("/sign-up", json=body).status_code == 400


def test_log_in(client):
    client.post("/sign-up", json=ANN)
    response = log_in(client)
    body = response.get_json()
    assert (response.status_code, body["message"]) == (200, "Login successful")
    assert (body["user"]["email"], "password" in body["user"]) == (ANN["email"], False)
    claims = decode_token(body["access_token"])
    assert (claims["sub"], claims["role"]) == (str(body["user"]["id"]), "user")


@pytest.mark.parametrize(
    "wrong", [{"password": "wrong horse"}, {"email": "eve@example.com"}, {"email": "x"}, {"password": "x" * 100}]
)
def test_log_in_with_what_is_wrong(client, wrong):
    client.post("/sign-up", json=ANN)
    response = log_in(client, **wrong)
    assert (response.status_code, response.get_json()) == (401, {"message": "Invalid email or password"})


def test_user_without_a_password_cannot_log_in(client):
    db.session.add(User(name="Ann", email=ANN["email"], password=None))
    db.session.commit()
    assert log_in(client).status_code == 401


def test_hash_of_the_documented_function_logs_in(client, admin):
    assert log_in(client, email=admin.email).status_code == 200


def test_users_for_an_admin(client, admin):
    client.post("/sign-up", json=ANN)
    response = client.get("/users", headers=bearer(admin))
    assert response.status_code == 200
    assert [(user["name"], user["role"]) for user in response.get_json()] == [("Ada", "admin"), ("Ann", "user")]
    assert all("password" not in user for user in response.get_json())


def test_users_for_anybody_else(client):
    client.post("/sign-up", json=ANN)
    response = client.get("/users", headers=bearer(User.query.one()))
    assert (response.status_code, response.get_json()) == (401, {"message": "Unauthorized"})


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer nonsense"}, {"Authorization": "nonsense"}])
def test_users_without_a_token(client, headers):
    response = client.get("/users", headers=headers)
    assert (response.status_code, response.is_json) == (401, True)


def test_serializer(client, admin):
    shown = {"id", "name", "email", "role", "active", "email_verified_at", "pending_email"}
    assert set(admin.to_dict()) == shown | {"created_at", "updated_at"}
    assert set(admin.to_dict(rules=("-updated_at", "-created_at"))) == shown
    assert admin.to_dict(only=("id", "name")) == {"id": admin.id, "name": "Ada"}
