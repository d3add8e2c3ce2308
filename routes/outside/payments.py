"""Which payment provider there is."""

from collections.abc import Mapping

from routes.outside.provider import Provider


def connect(settings: Mapping[str, str]) -> Provider | None:
    """The provider that is configured. The `stripe` package costs 32 MB: it is loaded only where there is a key."""
    if not settings.get("STRIPE_SECRET_KEY"):
        return None
    from routes.outside.stripe import StripeProvider

    return StripeProvider(
        key=settings["STRIPE_SECRET_KEY"],
        webhook_secrets=settings.get("STRIPE_WEBHOOK_SECRET", ""),
        api_base=settings.get("STRIPE_API_BASE", ""),
    )
