"""Accounts: signing up, logging in and out, and who may do what."""

from flask import current_app
from flask_jwt_extended import create_access_token, create_refresh_token, current_user, get_jwt
from flask_restful import Resource
from werkzeug.exceptions import Unauthorized

from models import ROLES, EmailTaken, EndedLogin, LastAdmin, User, db, new_stamp, password_matches
from routes.access import public, roles, signed_in
from routes.answers import answers
from routes.examples import CREDENTIALS, TOKEN, USER
from routes.limits import failed_logins, sign_ups
from routes.paging import page, paged, stream
from routes.parsing import AnyText, Choice, Email, Field, Flag, Password, Text, parser, takes

signup_parser = parser(
    Field("name", Text(100), required=True, missing="User name is required"),
    Field("email", Email(), required=True, missing="Email address is required"),
    Field("password", Password(), required=True, missing="Password is required"),
)


class UserSignup(Resource):
    @public
    @answers(
        201,
        {"message": "User created successfully"},
        refuses=[EmailTaken()],
        sends={"name": USER.name, **CREDENTIALS},
    )
    @takes(signup_parser)
    @sign_ups
    def post(self, args):
        """Open an account."""
        User.sign_up(**args)
        db.session.commit()
        return {"message": "User created successfully"}, 201


login_parser = parser(
    Field("email", AnyText(), required=True, missing="Email address is required"),
    Field("password", AnyText(), required=True, missing="Password is required"),
)


class LoginResource(Resource):
    @public
    @answers(
        200,
        {"message": "Login successful", "user": USER, "access_token": TOKEN, "refresh_token": TOKEN},
        refuses=[Unauthorized("Invalid email or password")],
        sends=CREDENTIALS,
    )
    @takes(login_parser)
    @failed_logins
    def post(self, args):
        """Log in, for tokens to send as Bearer."""
        account = User.credentials(args["email"])
        db.session.rollback()  # bcrypt takes a quarter of a second: the connection serves others meanwhile
        if not password_matches(account and account.password, args["password"]):
            current_app.logger.warning("log-in refused", extra={"user_id": account and account.id})
            raise Unauthorized("Invalid email or password")
        user = db.session.get_one(User, account.id)
        login = {"role": user.role, "stamp": account.stamp, "sid": new_stamp()}
        return {
            "message": "Login successful",
            "user": user.to_dict(),
            "access_token": create_access_token(identity=user, additional_claims=login),
            "refresh_token": create_refresh_token(identity=user, additional_claims=login),
        }


class RefreshResource(Resource):
    @roles(*ROLES, refresh=True)
    @answers(200, {"access_token": TOKEN})
    def post(self):
        """Get a new access token for a refresh token."""
        login = {name: get_jwt()[name] for name in ("sid", "stamp")}  # not one that was made a moment ago
        return {"access_token": create_access_token(identity=current_user.id, additional_claims=login)}


class LogoutResource(Resource):
    @signed_in
    @answers(204)
    def post(self):
        """End all tokens that came from this log-in."""
        lifetimes = (current_app.config[f"JWT_{kind}_TOKEN_EXPIRES"] for kind in ("ACCESS", "REFRESH"))
        EndedLogin.end(get_jwt()["sid"], seconds=max(lifetimes).total_seconds())
        db.session.commit()
        return None, 204


USERS = db.select(*(getattr(User, field) for field in User.serialize_only))


class UserResource(Resource):
    @roles("admin", refusal=Unauthorized)
    @answers(200, [USER])
    @paged()
    def get(self, args):
        """Get all users; with `limit` or `after`, a page of them."""
        return page(USERS, (User.id,), **args) if args else stream(USERS, (User.id,))


profile_changes = parser(
    Field("name", Text(100)),
    Field("email", Email()),
    Field("password", Password()),
    Field("current_password", AnyText()),
)


class MeResource(Resource):
    @signed_in
    @answers(200, USER)
    def get(self):
        """Get one's own account."""
        return db.session.get_one(User, current_user.id).to_dict()

    @signed_in
    @answers(200, USER, refuses=[EmailTaken()], sends={"name": "Ada King"})
    @takes(profile_changes)
    def patch(self, args):
        """Change one's own account; a new address or password takes the `current_password`."""
        user = User.change(current_user.id, **args)
        db.session.commit()
        if "password" in args:
            current_app.logger.info("password changed", extra={"user_id": user.id})
        return user.to_dict()


appointment = parser(Field("role", Choice(*ROLES)), Field("active", Flag()))


class AppointmentResource(Resource):
    @roles("admin")
    @answers(200, USER, refuses=[LastAdmin()])
    @takes(appointment)
    def patch(self, args, id):
        """Give an account another role, or close or open it. Its tokens end."""
        user = db.get_or_404(User, id)
        user.appoint(**args)
        db.session.commit()
        current_app.logger.info("account changed", extra={"user_id": id, "by": current_user.id, **args})
        return user.to_dict()
