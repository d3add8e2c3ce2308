"""Links that are mailed: to choose a new password, and to confirm an address."""

from typing import Any

from flask import current_app
from flask_jwt_extended import current_user
from flask_restful import Resource

from models import AlreadyVerified, EmailTaken, NotConfigured, db
from routes.docs import examples
from routes.docs.answers import answers
from routes.http.access import public, signed_in
from routes.http.limits import count_password_reset, limited
from routes.http.parsing import AnyText, Field, Password, parser, takes
from routes.selling.mail_tokens import (
    confirm_address,
    request_reset,
    request_verification,
    reset_password,
)

Answer = tuple[dict[str, str], int]
PERHAPS = {"message": "If there is an account for this address, a mail is on its way"}

address = parser(Field("email", AnyText(), required=True, required_message="Email address is required"))
token = parser(Field("token", AnyText(), required=True))
new_password = parser(
    Field("token", AnyText(), required=True),
    Field("password", Password(), required=True, required_message="Password is required"),
)


NEW_PASSWORD = {"token": examples.MAILED_TOKEN, "password": examples.CREDENTIALS["password"]}


class PasswordReset(Resource):
    @public
    @answers(202, PERHAPS, refuses=[NotConfigured(what="mail")], sends={"email": examples.CREDENTIALS["email"]})
    @takes(address)
    @limited
    def post(self, args: dict[str, str]) -> Answer:
        """Ask for a link to choose a new password. Nobody learns by it who has an account."""
        count_password_reset()
        request_reset(args["email"])
        db.session.commit()
        return PERHAPS, 202


class PasswordResetConfirm(Resource):
    @public
    @answers(200, {"message": "Password changed"}, sends=NEW_PASSWORD)
    @takes(new_password)
    def post(self, args: dict[str, str]) -> dict[str, str]:
        """Choose a new password by the token in the link. All tokens of the account end."""
        user = reset_password(**args)
        db.session.commit()
        current_app.logger.info("password changed", extra={"user_id": user.id, "by": "mail"})
        return {"message": "Password changed"}


class VerificationRequest(Resource):
    @signed_in
    @answers(202, examples.ACCEPTED, refuses=[AlreadyVerified(), NotConfigured(what="mail")])
    @limited
    def post(self) -> tuple[dict[str, Any], int]:
        """Ask for a link to confirm one's address: the pending one, or else the one there is."""
        request_verification(current_user.id)
        db.session.commit()
        return examples.ACCEPTED, 202


class VerificationConfirm(Resource):
    @public
    @answers(200, {"message": "Address confirmed"}, refuses=[EmailTaken()], sends={"token": examples.MAILED_TOKEN})
    @takes(token)
    def post(self, args: dict[str, str]) -> dict[str, str]:
        """Confirm an address by the token in the link. Where it is a new one, all tokens of the account end."""
        confirm_address(args["token"])
        db.session.commit()
        return {"message": "Address confirmed"}
