"""Accounts: signing up, logging in and out, and who may do what."""

from typing import Any

from flask import Response, current_app
from flask_jwt_extended import current_user, get_jwt
from flask_restful import Resource
from werkzeug.exceptions import Unauthorized

from models import ROLES, EmailTaken, HasTickets, LastAdmin, Missing, User, db
from routes.docs import examples
from routes.docs.answers import answers
from routes.http.access import public, roles, signed_in
from routes.http.limits import count_address_change, count_sign_up, guessing, limited
from routes.http.paging import page, paged, stream
from routes.http.parsing import AnyText, Choice, Email, Field, Flag, Parameter, Password, Text, parser, takes
from routes.http.tokens import ENDED, BadToken, expiry_of, generation_of, longest_life, tokens_of
from routes.http.views import Args
from routes.selling import accounts
from routes.selling.deletion import delete_account

signup_parser = parser(
    Field("name", Text(100), required=True, required_message="User name is required"),
    Field("email", Email(), required=True, required_message="Email address is required"),
    Field("password", Password(), required=True, required_message="Password is required"),
)


class UserSignup(Resource):
    @public
    @answers(
        201,
        {"message": "User created successfully"},
        refuses=[EmailTaken()],
        sends={"name": examples.USER.name, **examples.CREDENTIALS},
    )
    @takes(signup_parser)
    @limited
    def post(self, args: Args) -> tuple[Args, int]:
        """Open an account."""
        count_sign_up()
        User.sign_up(**args)
        db.session.commit()
        return {"message": "User created successfully"}, 201


login_parser = parser(
    Field("email", AnyText(), required=True, required_message="Email address is required"),
    Field("password", AnyText(), required=True, required_message="Password is required"),
)


class LoginResource(Resource):
    @public
    @answers(
        200,
        {"message": "Login successful", "user": examples.USER, **examples.TOKENS},
        refuses=[Unauthorized("Invalid email or password")],
        sends=examples.CREDENTIALS,
    )
    @takes(login_parser)
    @limited
    def post(self, args: Args) -> Args:
        """Log in, for tokens to send as Bearer."""
        known = accounts.credentials_by_email(args["email"])
        with guessing(known):
            check(known, args["password"])
        accounts.renew_hash(known, args["password"])
        user = db.session.get_one(User, known.id)
        tokens = new_tokens(user, known.token_version)
        db.session.commit()
        return {"message": "Login successful", "user": user.to_dict(), **tokens}


def check(known: accounts.Credentials, password: str) -> None:
    try:
        known.prove(password)
    except accounts.WrongPassword:
        current_app.logger.warning("log-in refused", extra={"user_id": known.id})
        raise Unauthorized("Invalid email or password") from None


def new_tokens(user: User, token_version: str) -> Args:
    """The tokens of a new log-in. They end with the `token_version` that was checked, not with a newer one."""
    return tokens_of(user, accounts.open_login(user.id, seconds=longest_life()), token_version)


class RefreshResource(Resource):
    @roles(*ROLES, token="refresh")
    @answers(200, examples.TOKENS)
    def post(self) -> Args:
        """Get new tokens for a refresh token, which is good once.

        For 30 seconds more it is answered with the same refresh token, as two tabs may send it at once. Who sends it
        later, or an older one, has it from somebody else: that ends the log-in.
        """
        token = get_jwt()
        login = accounts.renew_login(
            token["sid"],
            current_user.id,
            generation=generation_of(token),
            expires_at=expiry_of(token),
            seconds=longest_life(),
        )
        db.session.commit()
        if login is None:
            current_app.logger.warning("old refresh token", extra={"user_id": current_user.id})
            raise BadToken(*ENDED)
        return tokens_of(current_user._get_current_object(), login, token["stamp"])


class LogoutResource(Resource):
    @roles(*ROLES, token="either")
    @answers(204)
    def post(self) -> tuple[None, int]:
        """End all tokens that came from this log-in. The refresh token is as good for it as the access token."""
        accounts.end_login(get_jwt()["sid"], current_user.id)
        db.session.commit()
        return None, 204


class UserResource(Resource):
    @roles("admin", refusal=Unauthorized)
    @answers(200, [examples.USER])
    @paged(
        Parameter("q", Text(100), about="A part of the name or address"),
        Parameter("role", Choice(*ROLES), about="Users of this role"),
    )
    def get(self, args: Args) -> Response | tuple[Any, int, dict[str, str]]:
        """Get all users; with `limit`, `after` or a filter, a page of them. `q` is found in name or address."""
        wanted = {name: args.pop(name) for name in ("q", "role") if name in args}
        users, values = accounts.search_users(**wanted)
        if not args and not wanted:
            return stream(users, (User.id,))
        return page(users, (User.id,), values, pool="search" if "q" in wanted else "autocommit", **args)


proof_of_password = parser(Field("current_password", AnyText(), required=True))
profile_changes = parser(
    Field("name", Text(100)),
    Field("email", Email()),
    Field("password", Password()),
    Field("current_password", AnyText()),
)


class MeResource(Resource):
    @signed_in
    @answers(200, examples.USER)
    def get(self) -> Args:
        """Get one's own account."""
        return db.session.get_one(User, current_user.id).to_dict()

    @signed_in
    @answers(200, examples.USER, sometimes=examples.TOKENS, refuses=[EmailTaken()], sends={"name": "Ada King"})
    @takes(profile_changes)
    @limited
    def patch(self, args: Args) -> Args:
        """Change one's own account; a new address or password takes the `current_password`.

        Where it ends the tokens there were, new ones come with the answer. Where there is mail, a new address is
        `pending_email` until its link is confirmed.
        """
        proof = args.pop("current_password", "")
        known = accounts.credentials_of(current_user.id)
        guarded = known.are_needed_for(**args)
        if "email" in args and guarded:
            count_address_change()
        if guarded:
            with guessing(known):
                known.prove(proof)
        user = accounts.change_account(known, **args)
        tokens = new_tokens(user, user.token_version) if user.token_version != known.token_version else {}
        db.session.commit()
        if "password" in args:
            current_app.logger.info("password changed", extra={"user_id": user.id})
        return user.to_dict() | tokens

    @signed_in
    @answers(204, refuses=[LastAdmin(), HasTickets()], sends={"current_password": examples.CREDENTIALS["password"]})
    @takes(proof_of_password)
    @limited
    def delete(self, args: Args) -> tuple[None, int]:
        """Delete one's own account. Orders and money stay, without the name and address."""
        known = accounts.credentials_of(current_user.id)
        with guessing(known):
            known.prove(args["current_password"])
        delete_account(user_with(current_user.id))
        db.session.commit()
        current_app.logger.info("account deleted", extra={"user_id": current_user.id, "by": current_user.id})
        return None, 204


appointment = parser(Field("role", Choice(*ROLES)), Field("active", Flag()))


class UserDetail(Resource):
    @roles("admin")
    @answers(200, examples.USER)
    def get(self, id: int) -> Args:
        """Get an account."""
        return user_with(id).to_dict()

    @roles("admin")
    @answers(200, examples.USER, refuses=[LastAdmin()])
    @takes(appointment)
    def patch(self, args: Args, id: int) -> Args:
        """Give an account another role, or close or open it. Its tokens end."""
        user = user_with(id)
        accounts.give_role(user, **args)
        db.session.commit()
        current_app.logger.info("account changed", extra={"user_id": id, "by": current_user.id, **args})
        return user.to_dict()

    @roles("admin")
    @answers(204, refuses=[LastAdmin(), HasTickets()])
    def delete(self, id: int) -> tuple[None, int]:
        """Delete an account. Its orders and money stay, without the name and address."""
        delete_account(user_with(id))
        db.session.commit()
        current_app.logger.info("account deleted", extra={"user_id": id, "by": current_user.id})
        return None, 204


def user_with(id: int) -> User:
    user = db.session.get(User, id)
    if user is None or user.deleted_at:
        raise Missing
    return user
