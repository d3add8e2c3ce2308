"""The mails that were written, and what came of them."""

from typing import Any

from flask_restful import Resource

from models import MAIL_STATUSES, Mail, NotConfigured, db
from routes.docs import examples
from routes.docs.answers import answers
from routes.http.access import roles
from routes.http.paging import page, paged
from routes.http.parsing import Choice, Digits, Parameter
from routes.selling.mails import mail_list, retry

filters = (
    Parameter("status", Choice(*MAIL_STATUSES), about="What came of the mail"),
    Parameter("user", Digits(0, 2**31 - 1), about="Mails to this user"),
)


class MailList(Resource):
    @roles("admin")
    @answers(200, [examples.MAIL])
    @paged(*filters)
    def get(self, args: dict[str, Any]) -> tuple[Any, int, dict[str, str]]:
        """List the mails, newest first, with what came of each; never what it says."""
        status = args.pop("status", None)
        wanted = {"user": args.pop("user")} if "user" in args else {}
        return page(mail_list(frozenset(wanted), status), (Mail.id,), wanted, descending=True, **args)


class MailRetry(Resource):
    @roles("admin")
    @answers(202, examples.ACCEPTED, refuses=[NotConfigured(what="mail")])
    def post(self, id: int) -> tuple[dict[str, str], int]:
        """Send a mail now, whatever has come of it."""
        retry(id)
        db.session.commit()
        return examples.ACCEPTED, 202
