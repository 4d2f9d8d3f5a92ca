-- What is the stock of all suppliers worth, by region and nation, with totals for each?
select
    r_name as region,
    n_name as nation,
    count(distinct s_suppkey) as suppliers,
    sum(ps_availqty) as pieces,
    sum(ps_supplycost * ps_availqty) as value
from partsupp
join supplier on s_suppkey = ps_suppkey
join nation on n_nationkey = s_nationkey
join region on r_regionkey = n_regionkey
group by grouping sets ((r_name, n_name), (r_name), ())
order by region, nation;
