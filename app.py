"""The ticketing application: its extensions, its table of resources, and what makes an application of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dotenv import load_dotenv
from flask import Flask
from flask_migrate import Migrate

from models import bcrypt, db
from routes import commands, jobs
from routes.audit import AuditList
from routes.categories import CategoryDetail, CategoryList
from routes.checkouts import CheckoutSettle, OrderCheckout, ProviderNotice
from routes.docs import page
from routes.docs.openapi import OpenAPIResource
from routes.docs.page import DocsFile, DocsResource, Home
from routes.door import DoorList, ScanList
from routes.events import EventAvailability, EventCalendar, EventCopies, EventDetail, EventList, EventRefund
from routes.health import HealthLive, HealthResource
from routes.http import api as http_api
from routes.http import errors, headers, json, limits, logs, request, tokens
from routes.http.api import TicketingApi
from routes.http.tokens import jwt
from routes.links import PasswordReset, PasswordResetConfirm, VerificationConfirm, VerificationRequest
from routes.mails import MailList, MailRetry
from routes.orders import (
    OrderCancel,
    OrderDetail,
    OrderExtend,
    OrderList,
    OrderMail,
    OrderRefund,
    PaymentList,
    PaymentRefund,
    RefundRetry,
)
from routes.pools import PoolDetail, PoolList
from routes.promo_codes import PromoCodeDetail, PromoCodeList, PromoCodeOffer
from routes.reports import AttendeeList, PaymentReport, SalesReport
from routes.setup import engines, serving, settings, ticker
from routes.setup.front import Front
from routes.staff import MyEventList, StaffDetail, StaffList
from routes.ticket_types import TicketTypeDetail, TicketTypeList
from routes.tickets import (
    TicketCheckIn,
    TicketDetail,
    TicketList,
    TicketPage,
    TicketQR,
    TicketTransfer,
    TransferAccept,
)
from routes.users import (
    LoginResource,
    LogoutResource,
    MeResource,
    RefreshResource,
    UserDetail,
    UserResource,
    UserSignup,
)
from routes.waiting import EventWaiting, MyWaitingList, WaitingDetail

HERE = Path(__file__).parent

load_dotenv(HERE / ".env")

migrate = Migrate(db=db, directory=str(HERE / "migrations"))
api = TicketingApi()

api.add_resource(UserSignup, "/sign-up")
api.add_resource(LoginResource, "/login")
api.add_resource(RefreshResource, "/refresh")
api.add_resource(LogoutResource, "/logout")
api.add_resource(UserResource, "/users")
api.add_resource(UserDetail, "/users/<id:id>")
api.add_resource(MeResource, "/me")
api.add_resource(PasswordReset, "/password-resets")
api.add_resource(PasswordResetConfirm, "/password-resets/confirm")
api.add_resource(VerificationRequest, "/me/verification")
api.add_resource(VerificationConfirm, "/verifications")
api.add_resource(CategoryList, "/categories")
api.add_resource(CategoryDetail, "/categories/<id:id>")
api.add_resource(EventList, "/events")
api.add_resource(EventDetail, "/events/<id:id>")
api.add_resource(EventAvailability, "/events/<id:id>/availability")
api.add_resource(EventCopies, "/events/<id:id>/copies")
api.add_resource(EventCalendar, "/events/<id:id>/calendar")
api.add_resource(EventWaiting, "/events/<id:id>/waiting")
api.add_resource(MyWaitingList, "/me/waiting")
api.add_resource(WaitingDetail, "/waiting/<id:id>")
api.add_resource(StaffList, "/events/<id:id>/staff")
api.add_resource(StaffDetail, "/events/<id:id>/staff/<id:user>")
api.add_resource(MyEventList, "/me/events")
api.add_resource(TicketTypeList, "/events/<id:id>/ticket-types")
api.add_resource(TicketTypeDetail, "/ticket-types/<id:id>")
api.add_resource(PoolList, "/events/<id:id>/pools")
api.add_resource(PoolDetail, "/pools/<id:id>")
api.add_resource(PromoCodeList, "/events/<id:id>/promo-codes")
api.add_resource(PromoCodeOffer, "/events/<id:id>/promo-codes/<promo:promo>")
api.add_resource(PromoCodeDetail, "/promo-codes/<id:id>")
api.add_resource(OrderList, "/orders")
api.add_resource(OrderDetail, "/orders/<code:code>")
api.add_resource(OrderCancel, "/orders/<code:code>/cancel")
api.add_resource(OrderExtend, "/orders/<code:code>/extend")
api.add_resource(OrderRefund, "/orders/<code:code>/refund")
api.add_resource(OrderCheckout, "/orders/<code:code>/checkout")
api.add_resource(CheckoutSettle, "/orders/<code:code>/checkout/settle")
api.add_resource(ProviderNotice, "/webhooks/<provider:provider>")
api.add_resource(RefundRetry, "/orders/<code:code>/refunds/<code:refund>/retry")
api.add_resource(EventRefund, "/events/<id:id>/refund-all")
api.add_resource(OrderMail, "/orders/<code:code>/mail")
api.add_resource(PaymentList, "/orders/<code:code>/payments")
api.add_resource(PaymentRefund, "/orders/<code:code>/payments/<id:id>/refund")
api.add_resource(TicketList, "/tickets")
api.add_resource(TicketDetail, "/tickets/<code:code>")
api.add_resource(TicketQR, "/tickets/<code:code>/qr")
api.add_resource(TicketPage, "/tickets/<code:code>/page")
api.add_resource(TicketTransfer, "/tickets/<code:code>/transfer")
api.add_resource(TransferAccept, "/transfers/accept")
api.add_resource(TicketCheckIn, "/tickets/<code:code>/check-in")
api.add_resource(DoorList, "/events/<id:id>/door")
api.add_resource(ScanList, "/events/<id:id>/scans")
api.add_resource(AttendeeList, "/events/<id:id>/attendees")
api.add_resource(SalesReport, "/events/<id:id>/sales")
api.add_resource(PaymentReport, "/payments")
api.add_resource(AuditList, "/audit")
api.add_resource(MailList, "/mails")
api.add_resource(MailRetry, "/mails/<id:id>/retry")
api.add_resource(HealthResource, "/health")
api.add_resource(HealthLive, "/health/live")
api.add_resource(OpenAPIResource, "/openapi.json")
api.add_resource(Home, "/")
api.add_resource(DocsResource, "/docs")
api.add_resource(DocsFile, "/docs/<file:file>")


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make an application with this configuration; what it leaves out comes from the environment."""
    app = Flask(__name__, static_folder=None)
    settings.register(app, config or {})

    logs.register(app)
    settings.settle_secret(app)
    engines.register(app)
    migrate.init_app(app)
    bcrypt.init_app(app)
    jwt.init_app(app)
    tokens.register(app)

    json.register(app)
    request.register(app)
    limits.register(app)
    headers.register(app)
    errors.register(app)
    http_api.register(app)
    page.register(app)
    commands.register(app)
    jobs.register(app)
    ticker.register(app, jobs.JOBS)
    api.init_app(app)
    return app


def serve() -> None:
    serving.serve(app)


def front() -> Front:
    """What each process of `serve` runs."""
    return serving.front(app)


api.app = app = create_app()
