-- By how many percent does each nation buy more than in the year before?
with years as (
    select
        n_name as nation,
        extract(year from o_orderdate)::int as year,
        sum(o_totalprice) as value
    from orders
    join customer on c_custkey = o_custkey
    join nation on n_nationkey = c_nationkey
    where o_orderdate < date '1998-01-01'
    group by n_name, extract(year from o_orderdate)::int
)
select
    nation,
    year,
    value,
    round(100 * value / lag(value) over (partition by nation order by year) - 100, 2) as growth_percent
from years
order by nation, year;
