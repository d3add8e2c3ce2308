"""The configuration: what `create_app` is given, and for the rest what the environment says."""

import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from models import time_zones
from routes.setup.engines import configured_database
from routes.setup.environment import env_capitals, env_choice, env_flag, env_int, env_matching, env_text, processors

EXAMPLE_SECRETS = {"your-super-secret-key"}


def register(app: Flask, config: Mapping[str, Any]) -> None:
    """Configure `app` with `config`, and with the environment where that leaves something out."""
    app.config.from_mapping(settings(), **config)
    trust_proxies(app)


def settings() -> dict[str, Any]:
    """The configuration that the environment gives, with its defaults."""
    return {
        "JWT_SECRET_KEY": env_text("JWT_SECRET_KEY"),
        "JWT_ACCESS_TOKEN_EXPIRES": timedelta(minutes=env_int("JWT_ACCESS_TOKEN_MINUTES", 60)),
        "JWT_REFRESH_TOKEN_EXPIRES": timedelta(days=env_int("JWT_REFRESH_TOKEN_DAYS", 30, most=36_500)),
        "JWT_DECODE_LEEWAY": 10,  # seconds by which the clocks of servers may differ
        "JWT_ERROR_MESSAGE_KEY": "message",
        "JWT_COOKIE_CSRF_PROTECT": False,  # no cookies: the token travels in a header alone
        "SQLALCHEMY_DATABASE_URI": configured_database(),
        "SQLALCHEMY_ECHO": env_flag("SQLALCHEMY_ECHO", False),
        "DB_POOL_SIZE": env_int("DB_POOL_SIZE", 4),
        "DB_STATEMENT_SECONDS": env_int("DB_STATEMENT_SECONDS", 10, most=3600),
        "MAX_CONTENT_LENGTH": 1024 * 1024,
        "TRUSTED_PROXIES": env_int("TRUSTED_PROXIES", 0, least=0),
        "ORDER_HOLD_SECONDS": env_int("ORDER_HOLD_SECONDS", 900),
        "OFFER_SECONDS": env_int("OFFER_SECONDS", 12 * 3600),
        "MAX_PENDING_ORDERS": env_int("MAX_PENDING_ORDERS", 20),
        "MAX_TICKETS_PER_ORDER": env_int("MAX_TICKETS_PER_ORDER", 200),
        "CURRENCY": env_capitals("CURRENCY", "USD", "[A-Z]{3}"),
        "TIME_ZONE": env_choice("TIME_ZONE", "UTC", time_zones()),
        "SHOP_URL": env_text("SHOP_URL"),
        "SMTP_URL": env_text("SMTP_URL"),
        "MAIL_FROM": env_text("MAIL_FROM"),
        "STRIPE_SECRET_KEY": env_text("STRIPE_SECRET_KEY"),
        "STRIPE_WEBHOOK_SECRET": env_text("STRIPE_WEBHOOK_SECRET"),
        "STRIPE_API_BASE": env_text("STRIPE_API_BASE"),
        "CHECKOUT_GRACE_SECONDS": env_int("CHECKOUT_GRACE_SECONDS", 600, least=0),
        "RUN_JOBS": env_flag("RUN_JOBS", True),
        "CORS_ORIGINS": env_text("CORS_ORIGINS", "http://localhost:3000,http://localhost:5173"),
        "BCRYPT_LOG_ROUNDS": env_int("BCRYPT_LOG_ROUNDS", 12, least=4, most=31),
        "BCRYPT_AT_ONCE": env_int("BCRYPT_AT_ONCE", processors()),
        "BCRYPT_QUEUE": env_int("BCRYPT_QUEUE", 8, least=0),
        "THREADS": env_int("THREADS", 16, most=1000),
        "ACCESS_LOG": env_flag("ACCESS_LOG", True),
        "LOG_LEVEL": env_capitals("LOG_LEVEL", "INFO", "DEBUG|INFO|WARNING|ERROR|CRITICAL"),
        "RATELIMIT_ENABLED": env_flag("RATELIMIT_ENABLED", True),
        "FAILED_LOGINS_PER_MINUTE": env_int("FAILED_LOGINS_PER_MINUTE", 10),
        "FAILED_LOGINS_PER_HOUR": env_int("FAILED_LOGINS_PER_HOUR", 100),
        "ACCOUNT_FAILED_LOGINS_PER_HOUR": env_int("ACCOUNT_FAILED_LOGINS_PER_HOUR", 100),
        "SIGN_UPS_PER_HOUR": env_int("SIGN_UPS_PER_HOUR", 100),
        "ADDRESS_CHANGES_PER_HOUR": env_int("ADDRESS_CHANGES_PER_HOUR", 60),
        "PASSWORD_RESETS_PER_HOUR": env_int("PASSWORD_RESETS_PER_HOUR", 20),
        "PROMO_LOOK_UPS_PER_MINUTE": env_int("PROMO_LOOK_UPS_PER_MINUTE", 30),
        "RATELIMIT_STORAGE_URI": env_matching("RATELIMIT_STORAGE_URI", "memory://", "(memory|redis(s|\\+unix)?)://.*"),
        "RATELIMIT_STORAGE_OPTIONS": {"socket_connect_timeout": 1, "socket_timeout": 1, "key_prefix": "ticketing"},
        # Without its storage the limits count in the process's memory: nobody is locked out, and the log says so.
        "RATELIMIT_IN_MEMORY_FALLBACK_ENABLED": True,
        "RATELIMIT_SWALLOW_ERRORS": True,
    }


def trust_proxies(app: Flask) -> None:
    """The client's address is what the `TRUSTED_PROXIES` proxies in front of us say; nobody else is believed."""
    count = app.config["TRUSTED_PROXIES"]
    if count:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=count, x_proto=count, x_host=count, x_prefix=count)  # type: ignore[method-assign]


def settle_secret(app: Flask) -> None:
    """All but `serve` goes on without a real signing key, and says so."""
    fault = secret_fault(app.config["JWT_SECRET_KEY"])
    if fault:
        app.logger.warning("%s: good enough to try things out, and for nothing else", fault)
    if not app.config["JWT_SECRET_KEY"]:
        app.config["JWT_SECRET_KEY"] = secrets.token_hex(32)


def secret_fault(secret: str) -> str | None:
    """What is wrong with a signing key, or None."""
    if not secret:
        return "JWT_SECRET_KEY is not set"
    if secret in EXAMPLE_SECRETS:
        return "JWT_SECRET_KEY is the example from the documentation"
    if len(secret.encode()) < 32:
        return "JWT_SECRET_KEY is shorter than 32 bytes"
    return None
