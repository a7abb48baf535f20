-- Made by `npm run docs`: the schema of the database after all of migrations/.

CREATE TABLE blobs (
  digest text primary key not null check (length(digest) = 64),
  size_bytes integer not null check (size_bytes >= 0),
  created_at integer not null,
  verified_at integer not null
) strict;

CREATE TABLE images (
  id integer primary key autoincrement not null,
  name text not null unique,
  url text not null,
  digest text not null check (length(digest) = 64),
  created_at integer not null,
  updated_at integer not null ,
  kind text not null default 'rootfs' check (kind in ('rootfs', 'disk'))
) strict;

CREATE INDEX images_by_digest on images (digest);

CREATE TABLE migrations (
  name text primary key not null,
  applied_at integer not null
) strict;

CREATE TABLE nodes (
  id text primary key not null,
  hostname text not null,
  created_at integer not null
) strict;

CREATE TABLE owners (
  id text primary key not null,
  node text not null references nodes (id) on delete cascade,
  kind text not null check (kind in ('worker', 'command')),
  hostname text not null,
  boot_id text not null,
  pid_namespace text not null,
  pid integer not null,
  pid_start text not null,
  started_at integer not null,
  heartbeat_at integer not null
) strict;

CREATE TABLE placements (
  image_id integer not null references images (id) on delete cascade,
  node text not null references nodes (id) on delete cascade,
  state text not null check (state in ('NEW', 'DOWNLOADING', 'DOWNLOADED', 'UNPACKING', 'UNPACKED', 'STORED', 'ACTIVATING', 'ACTIVE', 'FAILED')),
  goal text not null check (goal in ('ACTIVE', 'STORED', 'REMOVED')),
  profile text not null,
  limits text not null,
  verify_blob integer not null default 0 check (verify_blob in (0, 1)),
  tree_id text,
  entries integer,
  tree_bytes integer,
  held text,
  failed text,
  failed_from text,
  created_at integer not null,
  updated_at integer not null,
  backend text not null default 'auto' check (backend in ('auto', 'dir', 'erofs')),
  tree_backend text check (tree_backend in ('dir', 'erofs')),
  primary key (image_id, node),
  check ((state = 'FAILED') = (failed is not null))
) strict;

CREATE TABLE run_events (
  seq integer primary key autoincrement not null,
  run_id text not null,
  image_name text not null,
  node text not null,
  at integer not null,
  kind text not null check (kind in ('transition', 'retry', 'failed', 'held', 'mended', 'canceled', 'removed')),
  step text,
  attempt integer not null,
  epoch integer not null,
  from_state text,
  to_state text,
  started_at integer,
  duration_ms integer,
  due_at integer,
  error_code text,
  error text,
  detail text
) strict;

CREATE INDEX run_events_by_image on run_events (image_name, seq);

CREATE INDEX run_events_by_run on run_events (run_id, seq);

CREATE TABLE runs (
  id text primary key not null,
  image_id integer not null,
  image_name text not null,
  node text not null,
  digest text not null,
  goal text not null check (goal in ('ACTIVE', 'STORED', 'REMOVED')),
  status text not null check (status in ('pending', 'running', 'waiting', 'done', 'failed', 'canceled')),
  step text,
  attempt integer not null default 1,
  owner text,
  epoch integer not null default 0,
  lease_expires_at integer,
  is_takeover integer not null default 0 check (is_takeover in (0, 1)),
  due_at integer not null,
  progress_done integer,
  progress_total integer,
  progress_at integer,
  error text,
  created_at integer not null,
  started_at integer,
  finished_at integer,
  check ((status = 'running') = (owner is not null)),
  check ((status in ('done', 'failed', 'canceled')) = (finished_at is not null))
) strict;

CREATE INDEX runs_by_image on runs (image_name, id);

CREATE UNIQUE INDEX runs_one_open on runs (image_id, node) where status in ('pending', 'running', 'waiting');

CREATE INDEX runs_open on runs (node, due_at) where status in ('pending', 'running', 'waiting');
