# The drivers of Python: psycopg 3, asyncpg, SQLAlchemy and Django.

use strict;
use warnings;

use File::Basename;

use DtxTest::Drivers;

my $dir = fetched_or_skipped('python');
test_drivers('python', [ 'python3', dirname(__FILE__) . '/drivers/python/main.py' ],
	PYTHONPATH => "$dir/python", PYTHONDONTWRITEBYTECODE => 1);
