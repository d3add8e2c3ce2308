"""Pools: places that several ticket types of an event share."""

from flask_restful import Resource

from models import HasOrders, Outdated, Pool, QuantityBelowSold, SoldOut, db
from routes.docs import examples
from routes.docs.answers import answers
from routes.http.access import roles
from routes.http.etags import conditional, expected_versions, tagged
from routes.http.paging import page, paged
from routes.http.parsing import ID, Field, Integer, Many, Text, changes, parser, takes
from routes.http.views import JSON, Args, Headers, Page
from routes.selling.catalogue import keep_visible
from routes.selling.promotions import POOL_LIST, create_pool, delete_pool, edit_pool, read_pool

new_pool = parser(
    Field("name", Text(100), required=True),
    Field("quantity", Integer(0, 2_000_000_000), required=True),
    Field("ticket_types", Many(ID, most=100)),
)
HALL = {"name": "Hall", "quantity": 200}
NO_ROOM = SoldOut(pool_id=1, available=10)


class PoolList(Resource):
    @roles("admin", "manager")
    @answers(200, [examples.POOL])
    @conditional
    @paged()
    def get(self, args: Args, id: int) -> Page:
        """List the pools of an event."""
        keep_visible(id)
        return page(POOL_LIST, (Pool.id,), {"id": id}, **args)

    @roles("admin", "manager")
    @answers(201, examples.POOL, headers=["Location"], refuses=[NO_ROOM, HasOrders()], sends=HALL)
    @tagged
    @takes(new_pool)
    def post(self, args: Args, id: int) -> tuple[JSON, int, Headers]:
        """Let ticket types of an event share places; what they have sold counts. With all types it is the hall."""
        pool = create_pool(id, **args)
        db.session.commit()
        return pool.to_dict(), 201, {"Location": f"/pools/{pool.id}", "version": pool.version}


class PoolDetail(Resource):
    @roles("admin", "manager")
    @answers(200, examples.POOL)
    @conditional
    def get(self, id: int) -> tuple[JSON, int, Headers]:
        """Get a pool."""
        pool = read_pool(id)
        return pool.to_dict(), 200, {"version": pool.version}

    @roles("admin", "manager")
    @answers(
        200, examples.POOL, refuses=[Outdated(), QuantityBelowSold(sold=2, held=1), NO_ROOM, HasOrders()], sends=HALL
    )
    @tagged
    @takes(changes(new_pool))
    def patch(self, args: Args, id: int) -> tuple[JSON, int, Headers]:
        """Change a pool; `ticket_types` are all that are in it then, and those that have sold stay."""
        pool = edit_pool(read_pool(id), args, versions=expected_versions())
        db.session.commit()
        return pool.to_dict(), 200, {"version": pool.version}

    @roles("admin", "manager")
    @answers(204, refuses=[Outdated()])
    def delete(self, id: int) -> tuple[None, int]:
        """Delete a pool; its ticket types have their own places alone again."""
        delete_pool(read_pool(id), versions=expected_versions())
        db.session.commit()
        return None, 204
