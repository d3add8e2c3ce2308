"""The categories that events are found by."""

from flask_restful import Resource

from models import Category, InUse, NameTaken, db
from routes.access import public, roles
from routes.answers import answers, conditional
from routes.examples import CATEGORY
from routes.paging import page, paged
from routes.parsing import Field, Text, changes, parser, takes

new_category = parser(Field("name", Text(100), required=True))


CATEGORIES = db.select(Category.id, Category.name)


class CategoryList(Resource):
    @public
    @answers(200, [CATEGORY])
    @conditional
    @paged()
    def get(self, args):
        """List the categories."""
        return page(CATEGORIES, (Category.id,), **args)

    @roles("admin")
    @answers(201, CATEGORY, refuses=[NameTaken()])
    @takes(new_category)
    def post(self, args):
        """Add a category."""
        category = Category.create(**args)
        db.session.commit()
        return category.to_dict(), 201


class CategoryItem(Resource):
    @roles("admin")
    @answers(200, CATEGORY, refuses=[NameTaken()])
    @takes(changes(new_category))
    def patch(self, args, id):
        """Rename a category."""
        category = db.get_or_404(Category, id)
        category.edit(args)
        db.session.commit()
        return category.to_dict()

    @roles("admin")
    @answers(204, refuses=[InUse()])
    def delete(self, id):
        """Delete a category that has no events."""
        db.get_or_404(Category, id).delete()
        db.session.commit()
        return None, 204
