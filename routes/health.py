"""Whether the server can do its work."""

from flask_restful import Resource
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import ServiceUnavailable

from models import db
from routes.access import public
from routes.answers import answers


class HealthResource(Resource):
    @public
    @answers(200, {"status": "ok"})
    def get(self):
        """Tell whether the server can do its work."""
        try:
            db.session.execute(db.text("SELECT 1"))
        except SQLAlchemyError as error:
            raise ServiceUnavailable("The database does not answer") from error
        return {"status": "ok"}
