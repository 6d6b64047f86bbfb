# What the docs show is what happens: every block of SQL in README.md, docs/ and
# the READMEs of the examples is typed in as it stands there, page by page, and
# what comes back is what the text says. See DtxTest::Docs for how a page says that.

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;
use DtxTest::Docs;

my $root = abs_path(dirname(__FILE__) . '/..');
# PAGES='docs/xa.md ...' follows these alone
my @pages = map { s{^\Q$root\E/}{}r } sort glob("$root/README.md $root/docs/*.md $root/examples/*/README.md");
@pages = split ' ', $ENV{PAGES} if $ENV{PAGES};

# A cluster as the README has one set up: what is not set is the default, but for
# limits that a busy machine would run into. The role is the one that the text has.
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(extra => [ '--encoding=UTF8', '--locale=C' ]);
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'dtx'
max_prepared_transactions = 10
dtx.lock_timeout = '3min'
dtx.connect_timeout = '1min'
CONF
# passwords are asked for, but of superusers
my $account = (getpwuid($>))[0];
my $hba = slurp_file($node->data_dir . '/pg_hba.conf');
open my $hba_file, '>', $node->data_dir . '/pg_hba.conf' or die "pg_hba.conf: $!";
print $hba_file "local all postgres,$account trust\nlocal all all scram-sha-256\n$hba";
close $hba_file;
$node->start;
$node->safe_psql('postgres', q{CREATE ROLE postgres SUPERUSER LOGIN})
  unless $node->safe_psql('postgres', q{SELECT count(*) FROM pg_roles WHERE rolname = 'postgres'});

my ($host, $port) = ($node->host, $node->port);

my $http_port = PostgreSQL::Test::Cluster::get_free_port();

# what programs of PostgreSQL in a shell's block connect to
@ENV{qw(PGHOST PGPORT PGUSER)} = ($host, $port, 'postgres');

sub new_reader
{
	my ($directory) = @_;
	return DtxTest::Docs->new(
		connstr => sub { $node->connstr($_[0]) . ' user=postgres' },
		root => $root,
		directory => $directory // $root,
		replace => [
			# a machine that is busy with other things is slow, not wrong
			[ "dtx_wait(:'xid')", "dtx_wait(:'xid', '3min')" ],
			[ 'host=/var/run/postgresql', "host=$host port=$port" ],
			[ '-v host=localhost -v port=5432', "-v host='$host' -v port=$port" ],
			[ 'PGHOST=localhost', "PGHOST='$host'" ],
			[ '8080', $http_port ]
		]);
}

# The cluster as it was.
sub clean_up
{
	foreach my $database (split /\n/, $node->safe_psql('postgres', q{SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'}))
	{
		$node->safe_psql('postgres', "DROP DATABASE $database WITH (FORCE)");
	}
	$node->safe_psql('postgres', <<'SQL');
DO $$ DECLARE r record; BEGIN
    FOR r IN SELECT rolname FROM pg_roles WHERE NOT rolsuper AND rolname !~ '^pg_' LOOP
        EXECUTE format('DROP ROLE %I', r.rolname);
    END LOOP;
END $$
SQL
	return;
}

# true if all went well, and false after the first thing that did not: what
# follows on the page stands on it
sub follow
{
	my ($reader, $page, @blocks) = @_;
	foreach my $block (@blocks)
	{
		my $wrong = $reader->follow($block);
		is($wrong, undef, "$page, line $block->{line}: " . ($block->{database} // $block->{language})) or return 0;
	}
	return 1;
}

my @banks = qw(bank1 bank2);
my @set_up = section('Set-up', blocks_of("$root/docs/tutorial.md", @banks));
ok(@set_up > 2, 'the tutorial has a set-up');

my %count;
foreach my $page (@pages)
{
	# an example's databases are created by its README
	my ($example) = $page =~ m{^(examples/.*)/};
	my @blocks = blocks_of("$root/$page", $example ? slurp_file("$root/$page") =~ /^createdb (\w+)/mg : @banks);
	my %not_run = map { $_ => 1 } @DtxTest::Docs::not_run;
	$count{ $_->{language} }++ foreach @blocks;

	# blocks without a language that show no output have a place in the reference only: signatures
	my @odd = map { "line $_->{line}: \"$_->{language}\"" }
	  grep { $_->{language} !~ /^(sql|sh)$/ && !$not_run{ $_->{language} } && !($_->{language} eq '' && $page eq 'docs/reference.md') } @blocks;
	is("@odd", '', "$page: every block says what it is");

	my @typed = grep { $_->{language} =~ /^(sql|sh)$/ } @blocks;
	next unless @typed;
	# a signature is made with it
	if ((grep { $_->{text} =~ /\bopenssl\b/ } @typed) && system('openssl version >/dev/null 2>&1') != 0)
	{
	  SKIP: { skip "$page: there is no openssl here", 1; }
		next;
	}
	my $reader = new_reader($example ? "$root/$example" : $root);
	my ($begin) = grep { $typed[$_]{text} =~ /^CREATE DATABASE/m } 0 .. $#typed;
	my $ok;
	if ($example)
	{
		$ok = follow($reader, $page, @typed);
	}
	elsif (defined $begin)
	{
		$ok = follow($reader, $page, @typed[ $begin .. $#typed ], @typed[ 0 .. $begin - 1 ]);
	}
	else
	{
		$ok = follow($reader, "$page, the tutorial's set-up", @set_up) && follow($reader, $page, @typed);
	}
	$reader->leave;
	clean_up();
}
note join ', ', map { ($_ || 'none') . ": $count{$_}" } sort keys %count;
unless ($ENV{PAGES})
{
	my $left = 0;
	$left += $count{$_} // 0 foreach qw(console ini);
	cmp_ok($left, '<=', 12, 'blocks that are not run are few');
	cmp_ok($count{sql}, '>=', 50, 'and those that are run are many');
}

# --- and a page that says what is not so is found out

my $page = PostgreSQL::Test::Utils::tempdir() . '/page.md';

sub follow_text
{
	my ($text) = @_;
	open my $file, '>', $page or die "$page: $!";
	print $file $text;
	close $file;
	my $reader = new_reader();
	my $wrong;
	foreach my $block (blocks_of($page, @banks))
	{
		$block->{database} = 'postgres';
		$wrong //= $reader->follow($block);
	}
	$reader->leave;
	return $wrong // 'nothing wrong';
}

is(follow_text("```sql\n-- bank1\nSELECT 1 AS one, 'x' AS x;  --> 1 | x\n```\n\n```\n one | x \n-----+---\n   1 | x\n```\n"),
	'nothing wrong', 'a page that is true');
like(follow_text("```sql\n-- bank1\nSELECT 1 AS one;  --> 2\n```\n"), qr/^it says "2"/, 'another value than it says');
like(follow_text("```sql\n-- bank1\nSELECT 1 AS one;\n```\n\n```\n one \n-----\n   2\n```\n"),
	qr/^the text shows/, 'another output than it shows');
like(follow_text("```sql\n-- bank1\nSELECT 1/0;\n```\n"), qr/^this was not to fail/, 'an error that it does not show');
is(follow_text("```sql\n-- bank1\nSELECT 1/0;  --> 22012: division by zero\n```\n"), 'nothing wrong', 'one that it tells');
like(follow_text("```sql\n-- bank1\nSELECT 1/0;  --> 22003: division by zero\n```\n"), qr/^it says "22003/, 'another than it tells');
is(follow_text("```sql\n-- bank1\nSELECT 1/0;\n```\n\n```\nERROR:  division ...\n```\n"),
	'nothing wrong', 'and one that it shows');
like(follow_text("```sh\nfalse\n```\n"), qr/^the shell says/, 'a command that fails');

done_testing();
