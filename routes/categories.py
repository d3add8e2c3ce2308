"""The categories that events are found by."""

from flask_restful import Resource
from werkzeug.exceptions import NotFound

from models import Category, CategoryInUse, CategoryNameTaken, Outdated, db
from routes.docs import examples
from routes.docs.answers import answers
from routes.http.access import public, roles
from routes.http.etags import conditional, expected_versions, tagged
from routes.http.paging import page, paged
from routes.http.parsing import Field, Text, changes, parser, takes
from routes.http.views import JSON, Args, Headers, Page
from routes.selling.catalogue import (
    SELECT_CATEGORIES,
    create_category,
    delete_category,
    edit_category,
    read_category,
)

new_category = parser(Field("name", Text(100), required=True))


class CategoryList(Resource):
    @public
    @answers(200, [examples.CATEGORY])
    @conditional
    @paged()
    def get(self, args: Args) -> Page:
        """List the categories."""
        return page(SELECT_CATEGORIES, (Category.id,), **args)

    @roles("admin")
    @answers(201, examples.CATEGORY, headers=["Location"], refuses=[CategoryNameTaken()])
    @tagged
    @takes(new_category)
    def post(self, args: Args) -> tuple[JSON, int, Headers]:
        """Add a category."""
        category = create_category(**args)
        db.session.commit()
        return category.to_dict(), 201, {"Location": f"/categories/{category.id}", "version": category.version}


class CategoryDetail(Resource):
    @public
    @answers(200, examples.CATEGORY)
    @conditional
    def get(self, id: int) -> tuple[JSON, int, Headers]:
        """Get a category."""
        category = read_category(id)
        if category is None:
            raise NotFound
        return category, 200, {"version": category.pop("version")}

    @roles("admin")
    @answers(200, examples.CATEGORY, refuses=[Outdated(), CategoryNameTaken()])
    @tagged
    @takes(changes(new_category))
    def patch(self, args: Args, id: int) -> tuple[JSON, int, Headers]:
        """Rename a category; with `If-Match`, only as long as nobody else has."""
        category = db.get_or_404(Category, id)
        edit_category(category, args, versions=expected_versions())
        db.session.commit()
        return category.to_dict(), 200, {"version": category.version}

    @roles("admin")
    @answers(204, refuses=[Outdated(), CategoryInUse()])
    def delete(self, id: int) -> tuple[None, int]:
        """Delete a category that has no events; with `If-Match`, only as long as nobody has changed it."""
        delete_category(db.get_or_404(Category, id), versions=expected_versions())
        db.session.commit()
        return None, 204
