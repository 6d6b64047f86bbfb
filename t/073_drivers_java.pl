# The driver of Java, with HikariCP, under Spring's transactions and under Hibernate.

use strict;
use warnings;

use DtxTest::Drivers;

my $dir = fetched_or_skipped('java');
test_drivers('java', [ 'java', '-Xshare:auto', '-XX:TieredStopAtLevel=1', '-cp', "$dir/java/classes:$dir/java/lib/*", 'Main' ]);
