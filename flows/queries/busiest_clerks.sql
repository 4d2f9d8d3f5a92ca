-- Who were the three busiest clerks of each year?
with handled as (
    select
        extract(year from o_orderdate)::int as year,
        o_clerk as clerk,
        count(*) as orders,
        row_number() over (
            partition by extract(year from o_orderdate)::int order by count(*) desc, o_clerk
        ) as place
    from orders
    group by extract(year from o_orderdate)::int, o_clerk
)
select year, place, clerk, orders
from handled
where place <= 3
order by year, place;
