# The drivers and query builders of node: node-postgres, postgres.js, Knex, TypeORM, Drizzle, Sequelize.

use strict;
use warnings;

use File::Basename;

use DtxTest::Drivers;

my $dir = fetched_or_skipped('node');
test_drivers('node', [ 'node', dirname(__FILE__) . '/drivers/node/main.js' ], NODE_PATH => "$dir/node/node_modules");
