"""What somebody would pick instead: the same calls on FastAPI, async SQLAlchemy and asyncpg, written as its users write it.

It does the work of the contract's hot calls: the user of the token is looked up at each request, prices are frozen, an order is all or nothing and
holds its places, the total is computed here. tests/benchmark.py starts it.
"""
import os
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from secrets import token_urlsafe
from typing import Annotated

import bcrypt
import jwt
from fastapi import Depends, FastAPI, HTTPException
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import DateTime, ForeignKey, Text, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, joinedload, mapped_column, relationship, selectinload

SECRET = os.environ["JWT_SECRET_KEY"]
ROUNDS = int(os.environ.get("BCRYPT_LOG_ROUNDS", 12))
HOLD = timedelta(minutes=15)
UTC = DateTime(timezone=True)
engine = create_async_engine(os.environ["DATABASE_URL"], pool_size=int(os.environ.get("POOL", 16)), max_overflow=0)
Session = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    email: Mapped[str] = mapped_column(Text, unique=True)
    password: Mapped[str] = mapped_column(Text)
    role: Mapped[str] = mapped_column(Text, server_default="user")
    active: Mapped[bool] = mapped_column(server_default="true")
    created_at: Mapped[datetime] = mapped_column(UTC, server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(UTC, server_default=func.now())


class Category(Base):
    __tablename__ = "categories"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text, unique=True)


class Event(Base):
    __tablename__ = "events"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text)
    venue: Mapped[str] = mapped_column(Text)
    poster: Mapped[str | None] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text, server_default="published")
    category_id: Mapped[int] = mapped_column(ForeignKey("categories.id"), index=True)
    starts_at: Mapped[datetime] = mapped_column(UTC, index=True)
    ends_at: Mapped[datetime] = mapped_column(UTC)
    created_at: Mapped[datetime] = mapped_column(UTC, server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(UTC, server_default=func.now())
    category: Mapped[Category] = relationship()
    ticket_types: Mapped[list["TicketType"]] = relationship(back_populates="event")


class TicketType(Base):
    __tablename__ = "ticket_types"
    id: Mapped[int] = mapped_column(primary_key=True)
    event_id: Mapped[int] = mapped_column(ForeignKey("events.id"), index=True)
    name: Mapped[str] = mapped_column(Text)
    price: Mapped[int]
    quantity: Mapped[int]
    available: Mapped[int]
    event: Mapped[Event] = relationship(back_populates="ticket_types")


class Order(Base):
    __tablename__ = "orders"
    __mapper_args__ = {"eager_defaults": True}
    id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str] = mapped_column(Text, unique=True, default=lambda: token_urlsafe(16))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    status: Mapped[str] = mapped_column(Text, default="pending")
    total: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(UTC, server_default=func.now())
    expires_at: Mapped[datetime] = mapped_column(UTC)
    items: Mapped[list["OrderItem"]] = relationship()


class OrderItem(Base):
    __tablename__ = "order_items"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), index=True)
    ticket_type_id: Mapped[int] = mapped_column(ForeignKey("ticket_types.id"))
    name: Mapped[str] = mapped_column(Text)
    quantity: Mapped[int]
    unit_price: Mapped[int]


class Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class UserOut(Out):
    id: int
    name: str
    email: str
    role: str
    created_at: datetime
    updated_at: datetime


class CategoryOut(Out):
    id: int
    name: str


class EventOut(Out):
    id: int
    name: str
    description: str
    venue: str
    poster: str | None
    status: str
    category: CategoryOut
    starts_at: datetime
    ends_at: datetime
    created_at: datetime
    updated_at: datetime


class TicketTypeOut(Out):
    id: int
    event_id: int
    name: str
    price: int
    quantity: int
    available: int


class EventDetailOut(EventOut):
    ticket_types: list[TicketTypeOut]


class LineIn(BaseModel):
    ticket_type_id: int
    quantity: int = Field(gt=0, le=10)


class OrderIn(BaseModel):
    items: list[LineIn] = Field(min_length=1, max_length=20)


class LineOut(Out):
    ticket_type_id: int
    name: str
    quantity: int
    unit_price: int


class OrderOut(Out):
    code: str
    status: str
    total: int
    created_at: datetime
    expires_at: datetime
    items: list[LineOut]


class LoginIn(BaseModel):
    email: str
    password: str


class LoginOut(BaseModel):
    message: str
    user: UserOut
    access_token: str


@asynccontextmanager
async def lifespan(app):
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
bearer = HTTPBearer()


async def get_db():
    async with Session() as session:
        yield session


DB = Annotated[AsyncSession, Depends(get_db)]


async def current_user(cred: Annotated[HTTPAuthorizationCredentials, Depends(bearer)], db: DB) -> User:
    try:
        claims = jwt.decode(cred.credentials, SECRET, algorithms=["HS256"])
    except jwt.InvalidTokenError:
        raise HTTPException(401, "Invalid token") from None
    user = await db.get(User, int(claims["sub"]))
    if user is None or not user.active:
        raise HTTPException(401, "Invalid token")
    return user


Me = Annotated[User, Depends(current_user)]


async def admin(user: Me) -> User:
    if user.role != "admin":
        raise HTTPException(403, "Forbidden")
    return user


@app.post("/login")
async def login(body: LoginIn, db: DB) -> LoginOut:
    user = await db.scalar(select(User).where(User.email == body.email))
    if user is None or not await run_in_threadpool(bcrypt.checkpw, body.password.encode(), user.password.encode()):
        raise HTTPException(401, "Invalid email or password")
    now = datetime.now(timezone.utc)
    token = jwt.encode({"sub": str(user.id), "role": user.role, "iat": now, "exp": now + timedelta(hours=1)}, SECRET, "HS256")
    return LoginOut(message="Login successful", user=UserOut.model_validate(user), access_token=token)


@app.get("/users", response_model=list[UserOut])
async def users(db: DB, _: Annotated[User, Depends(admin)]):
    return (await db.scalars(select(User).order_by(User.id))).all()


@app.get("/events", response_model=list[EventOut])
async def events(db: DB, skip: int = 0, limit: int = 50):
    upcoming = Event.status == "published", Event.ends_at >= func.now()
    page = select(Event).where(*upcoming).options(joinedload(Event.category)).order_by(Event.starts_at, Event.id)
    return (await db.scalars(page.offset(skip).limit(limit))).all()


@app.get("/events/{event_id}", response_model=EventDetailOut)
async def event(event_id: int, db: DB):
    found = await db.get(Event, event_id, options=[joinedload(Event.category), selectinload(Event.ticket_types)])
    if found is None or found.status == "draft":
        raise HTTPException(404)
    return found


@app.post("/orders", status_code=201, response_model=OrderOut)
async def place_order(body: OrderIn, db: DB, user: Me):
    wanted: dict[int, int] = {}
    for line in body.items:
        wanted[line.ticket_type_id] = wanted.get(line.ticket_type_id, 0) + line.quantity
    items = []
    for type_id, quantity in sorted(wanted.items()):
        taken = (await db.execute(
            update(TicketType)
            .where(TicketType.id == type_id, TicketType.available >= quantity)
            .where(TicketType.event_id == Event.id, Event.status == "published")
            .values(available=TicketType.available - quantity)
            .returning(TicketType.price, TicketType.name)
            .execution_options(synchronize_session=False))).first()
        if taken is None:
            raise HTTPException(409, "Sold out")
        items.append(OrderItem(ticket_type_id=type_id, name=taken.name, quantity=quantity, unit_price=taken.price))
    order = Order(user_id=user.id, total=sum(i.quantity * i.unit_price for i in items), items=items,
                  expires_at=datetime.now(timezone.utc) + HOLD)
    db.add(order)
    await db.commit()
    return order
