-- How much did each region bring in each year, with totals for the region and for all of it?
select
    r_name as region,
    extract(year from o_orderdate)::int as year,
    sum(l_extendedprice * (1 - l_discount)) as revenue
from lineitem
join orders on o_orderkey = l_orderkey
join customer on c_custkey = o_custkey
join nation on n_nationkey = c_nationkey
join region on r_regionkey = n_regionkey
group by rollup (r_name, extract(year from o_orderdate)::int)
order by region, year;
